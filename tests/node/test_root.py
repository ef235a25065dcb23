"""A node's file system in a directory: absolute links stay inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root with /var/data/file and links to it."""
    (tmp_path / "var/data").mkdir(parents=True)
    (tmp_path / "var/data/file").write_text("text\n")
    (tmp_path / "absolute").symlink_to("/var/data")
    (tmp_path / "var/relative").symlink_to("./data/../data/file")
    (tmp_path / "chain").symlink_to("absolute")
    return Root(tmp_path)


@pytest.mark.parametrize(
    "path", ["/var/data/file", "/absolute/file", "/var/relative", "/chain/file", "/../var/relative"]
)
def test_links_are_followed_within_the_root(root: Root, path: str) -> None:
    assert root.real(path) == root.directory / "var/data/file"
    assert root.text(path) == "text\n"


def test_a_link_at_the_end_can_be_left_unfollowed(root: Root) -> None:
    assert root.at("/chain") == root.directory / "chain"
    assert root.at("/chain/file") == root.directory / "var/data/file"


def test_a_path_that_does_not_exist_has_a_place_all_the_same(root: Root) -> None:
    assert root.real("/absolute/new/file") == root.directory / "var/data/new/file"


def test_a_loop_of_links_is_refused(root: Root) -> None:
    (root.directory / "a").symlink_to("/b")
    (root.directory / "b").symlink_to("/a")

    with pytest.raises(errors.RequestInvalid, match="loop of symbolic links"):
        root.real("/a/file")


@pytest.mark.parametrize("path", ["/none", "/var/data/file/below", "/var/data"])
def test_what_is_not_a_file_has_no_text(root: Root, path: str) -> None:
    assert root.text(path) is None


def test_bytes_that_are_not_utf8_survive(root: Root) -> None:
    (root.directory / "var/data/file").write_bytes(b"\xff\n")

    text = root.text("/var/data/file")

    assert text is not None
    assert text.encode(errors="surrogateescape") == b"\xff\n"


def test_names_are_sorted_and_a_missing_directory_has_none(root: Root) -> None:
    (root.directory / "var/data/another").touch()

    assert root.names("/absolute") == ["another", "file"]
    assert root.names("/none") == root.names("/var/data/file") == []


def test_only_the_file_system_of_this_machine_is_running(root: Root) -> None:
    assert Root().is_running
    assert not root.is_running
