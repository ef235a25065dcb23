"""The publisher writes binary caches; tests/store/test_nix_interop.py verifies them with Nix."""

from pathlib import Path

import pytest

from cri_proxy.store import compression, nar, signatures
from cri_proxy.store.signatures import Keyring
from hack.testbed.binary_cache import Executable, Publisher, Symlink

TREE = {"bin/run": Executable(b"#!/bin/sh\n"), "run": Symlink("bin/run"), "empty/": b""}


@pytest.mark.parametrize("name", compression.NAMES)
def test_published_path_is_signed_and_unpacks_to_its_tree(tmp_path, name):
    publisher = Publisher(tmp_path / "cache", compression=name)
    path = publisher.add("tree", TREE)
    info = publisher.narinfo(path)

    assert Keyring([signatures.parse_public(publisher.public_key)]).verify(info) == "testbed-1"
    assert info.file_size == publisher.archive_file(path).stat().st_size
    with publisher.archive_file(path).open("rb") as file:
        nar.unpack(
            compression.reader_of(file, name, label="x"),
            tmp_path / "tree",
            nar_size=info.nar_size,
            nar_hash=info.nar_hash,
            label="x",
        )
    tree = tmp_path / "tree"
    assert sorted(str(each.relative_to(tree)) for each in tree.rglob("*")) == [
        "bin",
        "bin/run",
        "empty",
        "run",
    ]
    assert (tree / "bin/run").read_bytes() == b"#!/bin/sh\n"
    assert (tree / "run").readlink() == Path("bin/run")
    assert (tree / "empty").is_dir()


def test_equal_trees_have_the_same_path_in_any_cache(tmp_path):
    first, second = Publisher(tmp_path / "first"), Publisher(tmp_path / "second")

    assert first.add("tree", TREE) == second.add("tree", TREE)


def test_name_contents_and_references_make_different_paths(tmp_path):
    publisher = Publisher(tmp_path / "cache")
    leaf = publisher.add("tree", TREE)
    paths = {
        leaf,
        publisher.add("other", TREE),
        publisher.add("tree", {**TREE, "more": b""}),
        publisher.add("tree", TREE, [leaf]),
    }

    assert len(paths) == 4


def test_path_can_refer_to_itself(tmp_path):
    publisher = Publisher(tmp_path / "cache")
    leaf = publisher.add("leaf", b"file")
    path = publisher.add("tree", TREE, [leaf], refers_to_itself=True)

    assert publisher.narinfo(path).references == tuple(sorted((leaf, path)))


def test_removed_path_is_not_in_the_cache(tmp_path):
    publisher = Publisher(tmp_path / "cache")
    path = publisher.add("tree", TREE)
    publisher.remove(path)

    assert not publisher.narinfo_file(path).exists()
