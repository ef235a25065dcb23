"""`cri-proxy gc` as a person and a program see it, with a runtime that has no containers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.testbed.fake_runtime import FakeRuntime
from tests.cli.conftest import Commands
from tests.cli.test_environments import place

FLAGS = ("--set", "garbage.grace_seconds=0")


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[str]:
    """The flag that names a runtime which answers every list with nothing."""
    async with FakeRuntime(tmp_path / "runtime.sock") as running:
        yield f"--set=runtime.endpoint={running.socket}"


@pytest.fixture
def root(commands: Commands) -> Path:
    """A store with an environment."""
    place(commands.root, "acme/web:1", realized_at=0.0)
    (identity,) = (commands.root / "environments").iterdir()
    (identity / ".lasting").touch()
    return commands.root


async def test_a_dry_run_tells_and_removes_nothing(
    commands: Commands, runtime: str, root: Path
) -> None:
    done = await asyncio.to_thread(commands.in_pipe, "gc", "--dry-run", runtime, *FLAGS)

    head, row, total = done.output.splitlines()
    assert done.code == 0, done.errors
    assert head.split() == ["REFERENCE", "MODE", "LAST", "STARTED", "FREES", "RESULT", "IDENTITY"]
    assert "would be removed" in row
    assert total.startswith("1 environment and 0 store paths would be removed")
    assert (root / "environments" / "acme-web-1").is_dir()


async def test_a_terminal_gets_a_table_and_the_environment_is_gone(
    commands: Commands, runtime: str, root: Path
) -> None:
    done = await asyncio.to_thread(commands.at_terminal, "gc", runtime, *FLAGS)

    assert done.code == 0, done.text
    assert "\x1b[1m" in done.output
    assert "acme/web:1" in done.text
    assert "1 environment and 0 store paths removed" in done.text
    assert not (root / "environments" / "acme-web-1").exists()


async def test_what_was_started_a_moment_ago_stays_and_says_so(
    commands: Commands, runtime: str, root: Path
) -> None:
    done = await asyncio.to_thread(commands.in_pipe, "gc", runtime)

    assert "stays: it was started recently" in done.output
    assert "0 environments and 0 store paths removed" in done.output


async def test_a_pin_holds_and_json_says_who(commands: Commands, runtime: str, root: Path) -> None:
    pins = "--set=prewarm.environments=acme/web"
    done = await asyncio.to_thread(commands.in_pipe, "gc", "--json", runtime, pins, *FLAGS)

    (said,) = json.loads(done.output)["environments"]
    assert (said["reference"], said["goes"], said["holders"]) == (
        "acme/web:1",
        False,
        ["pin acme/web"],
    )


async def test_a_node_without_any_has_nothing_to_remove(commands: Commands, runtime: str) -> None:
    done = await asyncio.to_thread(commands.in_pipe, "gc", runtime)

    assert done.output == "0 environments and 0 store paths removed, 0 B freed\n"


def test_without_a_runtime_nothing_is_done(commands: Commands, root: Path) -> None:
    done = commands.in_pipe("gc", "--set=runtime.endpoint=/nonexistent/runtime.sock", *FLAGS)

    assert done.code == 3
    assert "check that it is running" in done.errors
    assert (root / "environments" / "acme-web-1").is_dir()
