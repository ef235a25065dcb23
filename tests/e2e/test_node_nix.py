"""Pods with environments from the node's own Nix: linked if that is possible, else mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.binary_cache import Executable, Symlink
from hack.testbed.node_nix import NodeNix
from tests.e2e.conftest import Node

pytestmark = pytest.mark.nix


@pytest.fixture(params=["beside", "elsewhere"])
def node_nix(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NodeNix]:
    """The node's Nix, on the file system of environments or on another one."""
    root = tmp_path / "node-nix"
    root.mkdir()
    if request.param == "elsewhere":
        subprocess.run(["mount", "-t", "tmpfs", "none", root], check=True)
    nix = NodeNix(root)
    for name, value in nix.environment.items():
        monkeypatch.setenv(name, value)
    yield nix
    if request.param == "elsewhere":
        subprocess.run(["umount", "-l", root], check=True)


@pytest.fixture
def node_settings(node_nix: NodeNix) -> dict[str, dict[str, Any]]:
    return {"store": node_nix.settings}


def test_a_pod_runs_what_nix_has_and_sees_nothing_else(node: Node, node_nix: NodeNix) -> None:
    site = node.published.package("site", {"share/text": b"hello\n", "share/x": Symlink("text")})
    other = node.published.package("other", {"share/other": b""})
    node.push("other", other)
    assert node.run("acme/other", "true").wait() == 0
    node.push("web", site)

    assert node.output("acme/web", "cat", f"{site.path}/share/x") == "hello\n"
    seen = node.output("acme/web", "ls", "/nix/store").split()
    assert site.path.basename in seen
    assert other.path.basename not in seen
    assert (node_nix.roots / site.path.basename).is_symlink()


def test_a_program_cannot_write_to_nixs_store(node: Node, node_nix: NodeNix) -> None:
    site = node.published.package("site", {"bin/hello": Executable(b"#!/bin/sh\n")})
    node.push("web", site)
    place = f"{site.path}/bin/hello"

    assert node.run("acme/web", "sh", "-c", f"echo x > {place}").wait() != 0
    assert node_nix.physical(site.path).joinpath("bin/hello").read_bytes() == b"#!/bin/sh\n"


def test_what_nix_collected_is_realized_again(node: Node, node_nix: NodeNix) -> None:
    node.push("web", node.published.bash)
    assert node.output("acme/web", "echo", "one") == "one\n"
    for root in node_nix.roots.iterdir():
        root.unlink()
    node_nix.run("--gc")

    assert node.output("acme/web", "echo", "two") == "two\n"
