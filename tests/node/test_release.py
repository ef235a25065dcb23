"""Releases: their names, their files, and which of them stay on a node."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cri_proxy
from cri_proxy.node import release
from cri_proxy.node.release import Release

PLACES = [f"{release.DIRECTORY}/releases/{each}" for each in "abc"]


@pytest.mark.parametrize(
    ("current", "previous", "gone"),
    [
        ("c", "releases/b", PLACES[:1]),
        ("a", "releases/c", PLACES[1:2]),
        ("c", "releases/c", []),
        ("c", None, []),
    ],
)
def test_the_one_before_is_kept_to_go_back_to(
    current: str, previous: str | None, gone: list[str]
) -> None:
    others = ["/etc/cri-proxy"]

    found = release.outdated([*others, *PLACES], Release(Path("/tree"), current), previous)

    assert found == gone


def test_a_program_without_a_tarball_stays_where_it_is() -> None:
    found = release.present()

    assert found.tree is None
    assert found.program.endswith(("cri-proxy", "python -m cri_proxy"))


def test_a_program_without_a_tarball_has_no_links() -> None:
    assert release.present().links == {}


def test_the_links_lead_to_the_release() -> None:
    found = Release(Path("/tree"), "1.0-abc")

    assert found.place == "/opt/cri-proxy/releases/1.0-abc"
    assert found.program == "/opt/cri-proxy/current/bin/cri-proxy"
    assert found.links == {
        "/opt/cri-proxy/current": "releases/1.0-abc",
        "/usr/local/bin/cri-proxy": "/opt/cri-proxy/current/bin/cri-proxy",
    }


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked tarball, from which this program seems to run."""
    directory = tmp_path / "tree"
    (directory / "libexec").mkdir(parents=True)
    (directory / "libexec/cri-proxy").write_text("loader")
    (directory / "link").symlink_to("libexec")
    monkeypatch.setattr(sys, "prefix", str(directory))
    return directory


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "libexec/cri-proxy").write_text("loaded"),
    "mode": lambda tree: (tree / "libexec/cri-proxy").chmod(0o755),
    "name": lambda tree: (tree / "libexec").rename(tree / "lib"),
    "new file": lambda tree: (tree / "new").touch(),
    "link": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("other")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_release_is_named_by_its_version_and_content(
    tree: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    found = release.present()
    again = shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    changed = shutil.copytree(tree, tmp_path / "changed", symlinks=True)
    change(changed)

    assert found.tree == tree
    assert found.name.startswith(f"{cri_proxy.__version__}-")
    assert release._digest(tree) == release._digest(again)
    assert release._digest(changed) != release._digest(again)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing owners takes root")
def test_a_copy_has_the_same_content_and_belongs_to_root(tree: Path, tmp_path: Path) -> None:
    os.chown(tree / "libexec/cri-proxy", 1, 2)
    target = tmp_path / "target"
    target.mkdir()

    release.present().copy(target)

    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in target.rglob("*")}
    assert owners == {(0, 0)}
    assert release._digest(target) == release._digest(tree)
