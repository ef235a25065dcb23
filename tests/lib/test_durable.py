import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import durable


def names_in(directory):
    """What a directory holds, sorted."""
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


def test_lock_has_one_holder_and_its_file_is_gone_afterwards(tmp_path):
    path = tmp_path / "lock"
    first = durable.Lock.acquire(path)

    assert first is not None
    assert durable.Lock.acquire(path) is None
    first.release()
    assert not path.exists()
    second = durable.Lock.acquire(path)
    assert second is not None
    second.release()


def test_lock_excludes_through_all_its_removals(tmp_path):
    """Each release removes the file; nobody may ever hold the lock of a removed one."""
    path, inside, most = tmp_path / "lock", [0], [0]

    def contend():
        for _ in range(200):
            while (lock := durable.Lock.acquire(path)) is None:
                pass
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            tmp_path.stat()  # lets other threads run
            inside[0] -= 1
            lock.release()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert most == [1]
    assert not path.exists()


def test_lock_dies_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from cri_proxy.lib import durable;"
        "lock = durable.Lock.acquire(pathlib.Path(sys.argv[1])); print('held', flush=True);"
        "sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert durable.Lock.acquire(path) is None
        holder.kill()

    lock = durable.Lock.acquire(path)
    assert lock is not None
    lock.release()


def test_locks_of_names_are_each_held_by_one(tmp_path):
    locks, others = durable.Locks(tmp_path / "locks"), durable.Locks(tmp_path / "locks")
    first = locks.acquire("first")

    assert first is not None
    assert locks.acquire("first") is None  # of the same thread
    assert others.acquire("first") is None  # as if of another process
    second = others.acquire("second")
    assert second is not None
    assert locks.acquire("second") is None

    locks.release(first)
    again = others.acquire("first")
    assert again is not None
    assert locks.acquire("first") is None
    others.release(second)
    assert locks.acquire("first") is None
    others.release(again)


def test_nothing_is_open_while_no_name_is_locked(tmp_path):
    locks = durable.Locks(tmp_path / "locks")
    before = set(os.listdir("/proc/self/fd"))
    for name in ("one", "two"):
        held = locks.acquire(name)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        locks.release(held)

    assert set(os.listdir("/proc/self/fd")) == before


def test_locks_of_names_exclude_threads(tmp_path):
    shared = (durable.Locks(tmp_path / "locks"), durable.Locks(tmp_path / "locks"))
    inside, most = [0], [0]

    def contend(locks):
        for _ in range(200):
            while (lock := locks.acquire("name")) is None:
                pass
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            tmp_path.stat()  # lets other threads run
            inside[0] -= 1
            locks.release(lock)

    threads = [threading.Thread(target=contend, args=(shared[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert most == [1]


def test_locks_of_names_die_with_their_holder(tmp_path):
    program = (
        "import sys; from cri_proxy.lib import durable;"
        "locks = durable.Locks(sys.argv[1]); locks.acquire('name'); print('held', flush=True);"
        "sys.stdin.read()"
    )
    locks = durable.Locks(tmp_path / "locks")
    argv = [sys.executable, "-c", program, str(tmp_path / "locks")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert locks.acquire("name") is None
        holder.kill()

    lock = locks.acquire("name")
    assert lock is not None
    locks.release(lock)


def make_read_only_tree(root: Path) -> None:
    """A tree as a store path is: directories that not even their owner may write."""
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


def test_settling_happens_once_for_many_pokes_and_again_after_a_failure(monkeypatch, caplog):
    monkeypatch.setattr(durable, "QUIET_SECONDS", 0.0)
    settled, outcomes = threading.Semaphore(0), [OSError(errno.EIO, "bad disk"), None]

    def settle():
        settled.release()
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    settler = durable.Settler(settle)
    settler.poke()
    assert settled.acquire(timeout=60)
    settler.poke()
    assert settled.acquire(timeout=60)

    assert not outcomes
    assert "bad disk" in caplog.text
