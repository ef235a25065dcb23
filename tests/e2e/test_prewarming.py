"""Pinned environments: on the node before a pod asks, followed as they move, held against gc."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hack.testbed import waiting
from hack.testbed.environments import Package
from tests.e2e.conftest import Node


def page(node: Node, name: str) -> Package:
    return node.published.package(name, {"share/page": f"{name}\n".encode()})


@pytest.fixture
def pins(node: Node, tmp_path: Path) -> Path:
    """The drop-in directory of a node that looks after its pins every second."""
    directory = tmp_path / "prewarm.d"
    node.proxy.configure(
        {
            "prewarm": {"directory": str(directory), "interval_seconds": 1},
            "garbage": {"grace_seconds": 0, "interval_seconds": 86400},
        }
    )
    return directory


def in_place(node: Node) -> dict[str, str | None]:
    """Return the environments in place and what pins each."""
    listed = json.loads(node.proxy.run("environments", "--json"))
    return {each["reference"]: each["pin"] for each in listed}


def await_pinned(node: Node, reference: str, pin: str) -> None:
    waiting.until(
        lambda: f"pin ready reference={reference}" in node.proxy.log_text(),
        what=f"{reference} to be there",
        explain=lambda: node.proxy.log_text()[-3000:],
    )
    assert in_place(node)[reference] == pin


def test_a_pin_is_realized_at_start_followed_as_it_moves_and_held_against_gc(
    node: Node, pins: Path
) -> None:
    node.push("web", page(node, "one"))
    node.push("other", page(node, "three"))
    node.proxy.configure({"prewarm": {"environments": ["acme/web"]}})
    node.proxy.restart()
    await_pinned(node, "acme/web:1", "acme/web")

    node.push("web", page(node, "two"))
    await_pinned(node, "acme/web:2", "acme/web")
    node.proxy.run("realize", "acme/other")
    asked = node.cache.count()
    said: dict[str, Any] = json.loads(node.proxy.run("gc", "--json"))
    output = node.output("acme/web", "sh", "-c", "cat $FLOX_ENV/share/page")

    assert {each["reference"]: each["goes"] for each in said["environments"]} == {
        "acme/web:1": True,
        "acme/web:2": False,
        "acme/other:1": True,
    }
    assert output == "two\n"
    assert node.cache.count() == asked


def test_a_drop_in_adds_and_removes_a_pin(node: Node, pins: Path) -> None:
    """As a ConfigMap is mounted: a link to a directory whose name begins with dots."""
    node.push("web", page(node, "one"))
    version = pins / "..2026_01_01"
    version.mkdir(parents=True)
    (version / "web").write_text("# of the shop\nacme/web  # live\nnonsense\n")
    (pins / "..data").symlink_to(version.name)
    (pins / "web").symlink_to("..data/web")
    node.proxy.restart()
    await_pinned(node, "acme/web:1", "acme/web")

    (pins / "web").unlink()
    shutil.rmtree(version)

    waiting.until(lambda: "pin removed" in node.proxy.log_text(), what="the pin to go")
    assert in_place(node) == {"acme/web:1": None}
    assert node.proxy.log_text().count("invalid pin") == 1
    said = json.loads(node.proxy.run("gc", "--json"))
    assert [each["goes"] for each in said["environments"]] == [True]


def test_a_pin_that_fails_is_logged_once_and_works_when_its_cause_is_fixed(
    node: Node, pins: Path
) -> None:
    (pins).mkdir()
    (pins / "web").write_text("acme/web\n")
    node.proxy.restart()
    waiting.until(lambda: "pin failed" in node.proxy.log_text(), what="the failure")

    node.push("web", page(node, "one"))

    await_pinned(node, "acme/web:1", "acme/web")
    assert node.proxy.log_text().count("pin failed") == 1
    assert "pin ready reference=acme/web:1" in node.proxy.log_text()
