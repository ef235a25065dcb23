"""The store as a container will see it: links are followed within it and never out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy.realizer.rendering import Entry, TargetKind
from cri_proxy.realizer.trees import Trees

ONE = "0" * 32 + "-one"
TWO = "1" * 32 + "-two"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two paths, the second of which links into the first and elsewhere."""
    store = tmp_path / "store"
    (store / ONE / "bin").mkdir(parents=True)
    (store / ONE / "bin" / "tool").write_text("")
    (store / ONE / "sbin").symlink_to("bin")
    (store / TWO / "bin").mkdir(parents=True)
    (store / TWO / "bin" / "tool").symlink_to(f"/nix/store/{ONE}/sbin/tool")
    (store / TWO / "bin" / "up").symlink_to(f"../../{ONE}/bin")
    (store / TWO / "bin" / "host").symlink_to("/etc/passwd")
    (store / TWO / "bin" / "out").symlink_to("../../../../../../etc")
    (store / TWO / "bin" / "gone").symlink_to("nothing")
    (store / TWO / "bin" / "loop").symlink_to("loop")
    return store


def test_a_listing_tells_where_every_link_leads(store: Path) -> None:
    listing = Trees(store).listing(f"/nix/store/{TWO}/bin")

    assert listing["tool"] == Entry(TargetKind.FILE, f"/nix/store/{ONE}/bin/tool")
    assert listing["up"] == Entry(TargetKind.DIRECTORY, f"/nix/store/{ONE}/bin")


@pytest.mark.parametrize("name", ["host", "out", "gone", "loop"])
def test_a_link_that_leaves_the_store_or_leads_nowhere_is_nothing(store: Path, name: str) -> None:
    assert Trees(store).entry(f"/nix/store/{TWO}/bin/{name}").kind is TargetKind.NOTHING


def test_a_link_to_a_directory_is_listed_as_the_directory(store: Path) -> None:
    trees = Trees(store)

    assert trees.listing(f"/nix/store/{ONE}/sbin") == trees.listing(f"/nix/store/{ONE}/bin")


@pytest.mark.parametrize(
    "path",
    [
        "/nix/store",
        "/nix/store/..",
        "/etc",
        f"/nix/store/{ONE}/bin/tool/below",
        "/nix/store/absent",
    ],
)
def test_what_is_no_directory_of_the_store_has_no_entries(store: Path, path: str) -> None:
    assert Trees(store).listing(path) == {}


def test_words_of_an_absent_file_are_none(store: Path) -> None:
    assert Trees(store).words(f"/nix/store/{ONE}/nix-support/absent") == ()
