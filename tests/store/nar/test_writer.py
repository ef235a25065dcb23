"""Trees as archives, and back."""

import hashlib
import io
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.store import nar
from hack.testbed.archives import archive, directory, regular, symlink
from hack.testbed.binary_cache import Executable, Symlink, write_tree


def archive_of(path):
    written = io.BytesIO()
    nar.write(path, written.write)
    return written.getvalue()


def test_archive_is_word_for_word_that_of_the_format(tmp_path):
    write_tree(
        tmp_path / "tree",
        {"b/run": Executable(b"#!x"), "a": b"data", "c": Symlink("b/run"), "empty/": b""},
    )

    assert archive_of(tmp_path / "tree") == archive(
        directory(
            (b"a", regular(b"data")),
            (b"b", directory((b"run", regular(b"#!x", is_executable=True)))),
            (b"c", symlink(b"b/run")),
            (b"empty", directory()),
        )
    )


@pytest.mark.parametrize(
    ("tree", "node"),
    [
        (b"data", regular(b"data")),
        (Executable(b""), regular(b"", is_executable=True)),
        (Symlink("/nowhere"), symlink(b"/nowhere")),
    ],
)
def test_root_may_be_a_file_or_a_symlink(tmp_path, tree, node):
    write_tree(tmp_path / "tree", tree)

    assert archive_of(tmp_path / "tree") == archive(node)


@pytest.mark.parametrize("mode", [0o100, 0o755, 0o4711, 0o544])
def test_bit_of_the_owner_makes_a_file_executable(tmp_path, mode):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(mode)

    assert archive_of(tmp_path / "file") == archive(regular(b"", is_executable=True))


def test_bits_of_group_and_others_do_not_make_a_file_executable(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o655)

    assert archive_of(tmp_path / "file") == archive(regular(b""))


@pytest.mark.parametrize("size", [262_143, 262_144, 1_000_001])
def test_large_file_is_written_in_pieces(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    pieces = []
    nar.write(tmp_path / "file", pieces.append)

    assert b"".join(pieces) == archive(regular(data))
    assert max(map(len, pieces)) <= 262_144


def test_digest_is_that_of_the_archive(tmp_path):
    write_tree(tmp_path / "tree", {"a": b"data"})
    whole = archive_of(tmp_path / "tree")

    assert nar.digest_of(tmp_path / "tree") == (hashlib.sha256(whole).digest(), len(whole))


def test_socket_is_refused_by_its_name():
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/socket")

        with pytest.raises(errors.ContentDamaged, match=f"{short}/socket.*neither a file"):
            nar.digest_of(Path(short))


@pytest.mark.parametrize("depth", [256, 257])
def test_tree_is_refused_exactly_if_it_could_not_be_unpacked(tmp_path, depth):
    (tmp_path / "/".join("d" * depth)).mkdir(parents=True)

    if depth == 256:
        assert len(archive_of(tmp_path / "d")) > 256
    else:
        with pytest.raises(errors.ContentDamaged, match="more than 256 directories deep"):
            archive_of(tmp_path / "d")


names = st.binary(min_size=1, max_size=12).filter(
    lambda name: name not in (b".", b"..") and not {0, 0x2F} & set(name)
)
files = st.builds(regular, st.binary(max_size=300), is_executable=st.booleans())
links = st.builds(
    symlink, st.binary(min_size=1, max_size=40).filter(lambda target: b"\0" not in target)
)
trees = st.recursive(
    files | links,
    lambda nodes: st.dictionaries(names, nodes, max_size=5).map(
        lambda entries: directory(*sorted(entries.items()))
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(trees.map(archive))
def test_any_tree_that_was_unpacked_is_archived_as_the_same_bytes(data):
    digest = hashlib.sha256(data).digest()
    with tempfile.TemporaryDirectory() as parent:
        target = Path(parent, "tree")
        nar.unpack(io.BytesIO(data), target, nar_size=len(data), nar_hash=digest, label="x")

        assert archive_of(target) == data
        assert nar.digest_of(target) == (digest, len(data))
