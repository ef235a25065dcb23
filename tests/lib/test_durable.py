import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import durable


def names_in(directory):
    """Return the names of a directory's entries, sorted."""
    return sorted(each.name for each in directory.iterdir())


def test_boot_has_one_name_everywhere():
    program = "from cri_proxy.lib import durable; print(durable.boot_id())"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert other.stdout.strip() == durable.boot_id()
    assert len(bytes.fromhex(durable.boot_id())) == 16


def test_file_is_written_whole_with_its_mode_and_nothing_beside_it(tmp_path):
    file = tmp_path / "file"
    durable.write(file, b"one")
    durable.write(file, b"two", mode=0o600)

    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["file"]


def test_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "directory").mkdir()

    with pytest.raises(IsADirectoryError):
        durable.write(tmp_path / "directory", b"data")
    assert names_in(tmp_path) == ["directory"]


def test_syncing_reports_what_is_no_directory(tmp_path):
    durable.sync_filesystem(tmp_path)
    durable.sync_directory(tmp_path)

    with pytest.raises(FileNotFoundError):
        durable.sync_filesystem(tmp_path / "absent")


def make_read_only_tree(root: Path) -> None:
    """Create a tree like a store path: not even the owner may write its directories."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "a" / "link").symlink_to("/etc")
    for directory in (root / "a" / "b", root / "a", root):
        directory.chmod(0o555)


def test_read_only_tree_is_removed_and_links_out_of_it_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    make_read_only_tree(tmp_path / "tree")
    (tmp_path / "tree").chmod(0o755)
    (tmp_path / "tree" / "out").symlink_to(outside)
    (tmp_path / "tree").chmod(0o000)

    durable.remove_tree(tmp_path / "tree")

    assert names_in(tmp_path) == ["outside"]
    assert (outside / "kept").exists()


def test_read_only_tree_is_removed_by_an_ordinary_user(tmp_path):
    """Root passes every permission check, so this needs another user's process."""
    program = (
        "import os, sys, pathlib;"
        "sys.path.insert(0, sys.argv[2]);"
        "from cri_proxy.lib import durable; from tests.lib import test_durable;"
        "os.geteuid() or os.setuid(65534);"
        "root = pathlib.Path(sys.argv[1]);"
        "test_durable.make_read_only_tree(root / 'tree');"
        "durable.remove_tree(root / 'tree');"
        "assert not (root / 'tree').exists()"
    )
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for parent in list(shared.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)

    subprocess.run([sys.executable, "-c", program, str(shared), Path.cwd()], check=True)

    assert names_in(shared) == []


@pytest.mark.parametrize("make", [lambda p: p.touch(), lambda p: p.symlink_to("nowhere")])
def test_file_or_symlink_is_removed_like_a_tree(tmp_path, make):
    make(tmp_path / "it")

    durable.remove_tree(tmp_path / "it")
    durable.remove_tree(tmp_path / "it")

    assert names_in(tmp_path) == []


def test_deep_tree_is_removed(tmp_path):
    """As deep as an archive may be."""
    deepest = os.open(tmp_path, os.O_RDONLY)
    for _ in range(256):
        os.mkdir("d", dir_fd=deepest)
        inner = os.open("d", os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = inner
    os.close(deepest)

    durable.remove_tree(tmp_path / "d")

    assert names_in(tmp_path) == []


def test_full_disk_is_explained_and_other_faults_pass(tmp_path):
    with (
        pytest.raises(errors.NodeExhausted, match=r"no room for a thing: 77 bytes .* \d+ are free"),
        durable.exhaustion_explained(tmp_path, "a thing", 77),
    ):
        raise OSError(errno.EDQUOT, "quota")
    with (
        pytest.raises(PermissionError),
        durable.exhaustion_explained(tmp_path, "a thing", 77),
    ):
        raise PermissionError(errno.EACCES, "denied")


def test_two_directories_change_places_with_all_that_is_in_them(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in-{name}").touch()

    durable.swap(tmp_path / "one", tmp_path / "other")

    assert [each.name for each in (tmp_path / "one").iterdir()] == ["in-other"]
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["in-one"]


def test_both_paths_of_a_swap_must_exist(tmp_path):
    (tmp_path / "one").mkdir()

    with pytest.raises(OSError, match="No such file") as failed:
        durable.swap(tmp_path / "one", tmp_path / "other")

    assert failed.value.errno == errno.ENOENT
    assert (tmp_path / "one").is_dir()
