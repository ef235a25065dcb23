"""Unpacking archives, hostile ones included."""

import contextlib
import hashlib
import io
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.store import nar
from hack.testbed import archives
from hack.testbed.archives import archive, directory, regular, symlink, word, words

SAMPLE = archive(
    directory(
        (b"bin", directory((b"run", regular(b"#!/bin/sh\n", is_executable=True)))),
        (b"empty", directory()),
        (b"lib.so", symlink(b"../elsewhere/lib.so.1")),
        (b"text", regular(b"thirteen char")),
    )
)


@contextlib.contextmanager
def target_alone():
    """Yield a path for a tree; fail the test if anything appears beside it."""
    with tempfile.TemporaryDirectory() as outer:
        stage = Path(outer, "stage")
        stage.mkdir()
        yield stage / "tree"

        assert names_in(Path(outer)) == [b"stage"]
        assert set(names_in(stage)) <= {b"tree"}


def names_in(directory):
    return sorted(os.fsencode(path.name) for path in directory.iterdir())


def unpack(data, target, *, nar_size=None, nar_hash=None):
    return nar.unpack(
        io.BytesIO(data),
        target,
        nar_size=len(data) if nar_size is None else nar_size,
        nar_hash=nar_hash or hashlib.sha256(data).digest(),
        label="/nix/store/x from https://cache",
    )


def refusal(data, **expected):
    """Return the message with which `data` is refused."""
    with target_alone() as target, pytest.raises(errors.ContentDamaged) as caught:
        unpack(data, target, **expected)
    return str(caught.value)


def one(name, node):
    """Return the archive of a directory with one entry."""
    return archive(directory((name, node)))


# What is written


def test_tree_is_written_with_contents_kinds_and_targets(tmp_path):
    unpack(SAMPLE, tmp_path / "tree")

    assert names_in(tmp_path / "tree") == [b"bin", b"empty", b"lib.so", b"text"]
    assert names_in(tmp_path / "tree/bin") == [b"run"]
    assert (tmp_path / "tree/bin/run").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "tree/text").read_bytes() == b"thirteen char"
    assert (tmp_path / "tree/lib.so").readlink() == Path("../elsewhere/lib.so.1")
    assert list((tmp_path / "tree/empty").iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_and_times_are_those_of_the_nix_store_under_any_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        unpack(SAMPLE, tmp_path / "tree")
    finally:
        os.umask(before)

    paths = [tmp_path / "tree", *(tmp_path / "tree").rglob("*")]
    modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()
    }
    assert modes == {"tree": 0o555, "bin": 0o555, "empty": 0o555, "run": 0o555, "text": 0o444}
    assert {path.lstat().st_mtime_ns for path in paths} == {1_000_000_000}


def test_directory_that_inherits_the_group_bit_does_not_keep_it(tmp_path):
    tmp_path.chmod(0o2755)

    unpack(SAMPLE, tmp_path / "tree")

    assert stat.S_IMODE((tmp_path / "tree/bin").stat().st_mode) == 0o555


def test_root_may_be_a_file(tmp_path):
    unpack(archive(regular(b"data", is_executable=True)), tmp_path / "tree")

    assert (tmp_path / "tree").read_bytes() == b"data"
    assert os.access(tmp_path / "tree", os.X_OK)


def test_root_may_be_a_symlink(tmp_path):
    unpack(archive(symlink(b"/nowhere")), tmp_path / "tree")

    assert (tmp_path / "tree").readlink() == Path("/nowhere")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8192, 262143, 262144, 262145, 3_000_001])
def test_file_of_any_size_is_written_whole(tmp_path, size):
    data = os.urandom(size)

    unpack(archive(directory((b"a", regular(data)), (b"b", regular(b"end")))), tmp_path / "tree")

    assert (tmp_path / "tree/a").read_bytes() == data
    assert (tmp_path / "tree/b").read_bytes() == b"end"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_source_may_give_few_bytes_at_a_time(tmp_path, size):
    class Dripping(io.BytesIO):
        def read(self, asked=-1):
            return super().read(min(asked, size))

    digest = hashlib.sha256(SAMPLE).digest()
    source = Dripping(SAMPLE)
    nar.unpack(source, tmp_path / "tree", nar_size=len(SAMPLE), nar_hash=digest, label="x")

    assert nar.digest_of(tmp_path / "tree") == (digest, len(SAMPLE))


def test_names_need_not_be_text(tmp_path):
    unpack(one(b"\xff\xfe \n", regular(b"data")), tmp_path / "tree")

    assert names_in(tmp_path / "tree") == [b"\xff\xfe \n"]


def test_longest_names_and_targets_are_written(tmp_path):
    unpack(one(b"n" * 255, symlink(b"t" * 4095)), tmp_path / "tree")

    assert (tmp_path / "tree" / ("n" * 255)).readlink() == Path("t" * 4095)


def test_names_follow_in_the_order_of_their_bytes(tmp_path):
    names = [b"A", b"B", b"a", b"a-", b"a.b", b"a0", b"\xc3\xa4"]
    unpack(archive(directory(*((name, regular(b"")) for name in names))), tmp_path / "tree")

    assert names_in(tmp_path / "tree") == names


def deep(levels):
    node = directory()
    for _ in range(levels - 1):
        node = directory((b"d", node))
    return archive(node)


def test_directories_may_be_nested_256_deep(tmp_path):
    unpack(deep(256), tmp_path / "tree")

    deepest = tmp_path.joinpath("tree", *["d"] * 255)
    assert list(deepest.iterdir()) == []


# What is refused


def test_deeper_directories_are_refused():
    assert "more than 256 deep" in refusal(deep(257))


@pytest.mark.parametrize("name", [b"..", b".", b"", b"/", b"a/b", b"../x", b"/etc/x", b"a\0b"])
@pytest.mark.parametrize("node", [regular(b"x"), symlink(b"x"), directory()])
def test_name_that_is_no_single_component_is_refused(name, node):
    assert "name" in refusal(one(name, node))


def test_name_too_long_for_linux_is_refused():
    assert "256 bytes long, more than 255" in refusal(one(b"n" * 256, regular(b"")))


@pytest.mark.parametrize("second", [b"a", b"Z", b"ab", b""])
def test_name_out_of_order_is_refused(second):
    data = archive(directory((b"ab", regular(b"")), (second, regular(b""))))
    assert "is out of order" in refusal(data)


def test_child_of_a_symlink_is_refused_and_nothing_appears_behind_it(tmp_path):
    """Only a second entry of the same name could lead through the symlink."""
    outside = os.fsencode(tmp_path)
    hostile = archive(
        directory((b"a", symlink(outside)), (b"a", directory((b"evil", regular(b"x")))))
    )

    assert "is out of order" in refusal(hostile)
    assert list(tmp_path.iterdir()) == []


def test_target_that_exists_is_not_written_to(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to("outside")

    with pytest.raises(FileExistsError):
        unpack(SAMPLE, tmp_path / "tree")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * 4096])
def test_symlink_with_an_impossible_target_is_refused(target):
    assert "symlink" in refusal(one(b"a", symlink(target)))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**62, 100_000])
@pytest.mark.parametrize("nar_size", [None, 2**63 - 1])
@pytest.mark.parametrize(
    "head",
    [
        words("nix-archive-1", "(", "type", "regular", "contents"),
        words("nix-archive-1", "(", "type", "symlink", "target"),
        words("nix-archive-1", "(", "type", "directory", "entry", "(", "name"),
        b"",
    ],
)
def test_giant_length_is_refused_before_anything_is_allocated(head, length, nar_size):
    refusal(head + length.to_bytes(8, "little") + bytes(64), nar_size=nar_size)


def test_archive_truncated_anywhere_is_refused():
    """Both if only the source ends early, and if the expected size is as short."""
    for end in range(len(SAMPLE)):
        refusal(SAMPLE[:end], nar_size=len(SAMPLE))
        refusal(SAMPLE[:end])


def test_truncation_inside_a_large_file_is_reported(tmp_path):
    data = one(b"large", regular(bytes(1_000_000)))

    assert "truncated after 600000 of" in refusal(data[:600_000], nar_size=len(data))


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 8, words(")"), SAMPLE])
def test_bytes_behind_the_archive_are_refused(extra):
    assert "short of the expected" in refusal(SAMPLE + extra)
    digest = hashlib.sha256(SAMPLE).digest()
    assert "data follows" in refusal(SAMPLE + extra, nar_size=len(SAMPLE), nar_hash=digest)


@pytest.mark.parametrize(
    "padded", [word(b"thirteen char"), word(b"#!/bin/sh\n"), word(b"bin"), words(")")]
)
def test_padding_that_is_not_zero_is_refused(padded):
    tampered = padded[:-1] + b"\1"

    refusal(SAMPLE.replace(padded, tampered, 1))


def test_padding_of_large_contents_that_is_not_zero_is_refused():
    data = bytearray(archive(regular(bytes(1_000_001))))
    data[-len(words(")")) - 1] = 1

    assert "padding" in refusal(bytes(data))


def test_other_contents_than_expected_are_refused():
    message = refusal(SAMPLE, nar_hash=bytes(32))

    assert hashlib.sha256(SAMPLE).hexdigest() in message
    assert "/nix/store/x from https://cache" in message


@pytest.mark.parametrize(
    "node",
    [
        words("(", "type", "device", ")"),
        words("(", "type", "regular", ")"),
        words("(", "type", "regular", "executable", "x", "contents", "", ")"),
        words("(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"),
        words("(", "type", "regular", "contents", "", "contents", "", ")"),
        words("(", "type", "regular", "contents", "", "executable", "", ")"),
        words("(", "type", "symlink", ")"),
        words("(", "type", "symlink", "target", "a", "target", "b", ")"),
        words("(", "type", "directory", "type", "directory", ")"),
        words("(", "type", "directory", "entry", "(", "node") + regular(b"") + words(")", ")"),
        words("(", "type", "directory", "entry", "(", "name", "a", ")", ")"),
        words("(", "type", "directory", "entry", "(", "name", "a", "node", ")", ")"),
        words("(", "type", "directory", "entry", ")"),
        words("(", ")"),
        words(")"),
        words("regular"),
        b"",
        regular(b"") + regular(b""),
    ],
)
def test_words_that_the_format_does_not_know_here_are_refused(node):
    refusal(archive(node))
    refusal(archive(directory((b"a", node))))


def test_other_magic_is_refused():
    refusal(words("nix-archive-2") + regular(b""))


def test_refusal_names_the_entry():
    nested = archive(directory((b"usr", directory((b"lib", words("(", "type", "fifo", ")"))))))

    assert "at entry 'usr/lib'" in refusal(nested)


def test_refusal_is_one_line_whatever_the_names_hold():
    message = refusal(one(b"\n\x1b[31m\xff", words("(", "type", "fifo", ")")))

    assert message.isprintable()


def test_refusal_closes_all_files(tmp_path):
    before = len(names_in(Path("/proc/self/fd")))
    for end in range(0, len(SAMPLE), 16):
        refusal(SAMPLE[:end])

    assert len(names_in(Path("/proc/self/fd"))) == before


@pytest.mark.e2e
def test_full_disk_is_an_error_of_the_system(tmp_path):
    """The caller knows what to do about space; damage would send it to another cache."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "archive").write_bytes(one(b"large", regular(bytes(1_000_000))))
    program = (
        "import errno, hashlib, pathlib, sys\n"
        "from cri_proxy.store import nar\n"
        "data = pathlib.Path('archive').read_bytes()\n"
        "try:\n"
        "    nar.unpack(open('archive', 'rb'), pathlib.Path('disk/tree'), nar_size=len(data),\n"
        "               nar_hash=hashlib.sha256(data).digest(), label='x')\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    script = 'mount -t tmpfs -o size=256k none disk && exec "$0" -c "$1"'
    finished = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (finished.stdout, finished.stderr) == ("ENOSPC\n", "")


# Anything at all


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_as_damaged(data):
    refusal(data)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [words(text) for text in ("(", ")", "type", "entry", "name", "node", "directory")]
            + [words(text) for text in ("regular", "symlink", "target", "contents", "", "a", "b")]
            + [words("executable"), word(b".."), word(b"/etc"), regular(b"x"), symlink(b"/")]
        ),
        max_size=40,
    )
)
def test_arbitrary_words_are_unpacked_or_refused_as_damaged(parts):
    with target_alone() as target, contextlib.suppress(errors.ContentDamaged):
        unpack(archives.archive(b"".join(parts)), target)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_altered_archive_is_refused_or_is_another_tree_altogether(data):
    """Whatever is accepted is canonical: writing the tree gives the same bytes again."""
    altered = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        altered[data.draw(st.integers(0, len(SAMPLE) - 1))] = data.draw(st.integers(0, 255))
    with target_alone() as target:
        try:
            unpack(bytes(altered), target)
        except errors.ContentDamaged:
            return
        written = io.BytesIO()
        nar.write(target, written.write)

    assert written.getvalue() == bytes(altered)
