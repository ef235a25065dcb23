"""The demo leaves nothing behind, whenever and however it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hack.testbed import sweeping, waiting
from hack.testbed.processes import Program
from hack.testbed.sweeping import Traces

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
KEPT = "Press Ctrl-C"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for the demo's files, with a short path for sockets."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)


@contextmanager
def running_demo(place: Path, *, until: str, **variables: str) -> Iterator[tuple[Program, Traces]]:
    """Run the demo until it has printed `until`; yield it with the names of its traces."""
    files = place / "files"
    files.mkdir()
    environment = {**os.environ, "TMPDIR": str(files), "PYTHONUNBUFFERED": "1", **variables}
    with Program(
        [sys.executable, "-m", "hack.demo"], log=place / "log", env=environment, cwd=REPOSITORY
    ) as demo:
        demo.await_output(until)
        (names,) = files.glob("*/traces.json")
        yield demo, sweeping.load(names.parent)


def remains(place: Path, traces: Traces) -> list[str]:
    """Return a line for each trace of the demo that is left on this machine."""
    files = place / "files"
    named = [
        f"process {process.parent.name}"
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if str(files).encode() in _content_of(process)
    ]
    return [*sweeping.remains(traces), *named, *(f"file {each}" for each in files.iterdir())]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("1. A pod annotated", signal.SIGINT),
        ("GET http", signal.SIGTERM),
        ("2. An ordinary pod", signal.SIGHUP),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    place: Path, moment: str, number: signal.Signals
) -> None:
    with running_demo(place, until=moment) as (demo, traces):
        demo.signal(number)

        assert demo.wait() == 130, demo.tail()
        assert remains(place, traces) == []
        assert "Everything that the demo started has been removed" in demo.output()


def test_more_signals_do_not_stop_the_clean_up(place: Path) -> None:
    with running_demo(place, until="1. A pod annotated") as (demo, traces):
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            demo.signal(number)

        assert demo.wait() == 130, demo.tail()
        assert remains(place, traces) == []


def test_a_killed_demo_leaves_nothing_either(place: Path) -> None:
    with running_demo(place, until="2. An ordinary pod") as (demo, traces):
        demo.kill()

        waiting.until(
            lambda: _are_gone(place, traces),
            what="the guards to remove everything",
            explain=lambda: f"left: {remains(place, traces)}",
        )


def test_a_kept_demo_prints_commands_that_work_and_ends_successfully(place: Path) -> None:
    with running_demo(place, until=KEPT, DEMO_KEEP="1") as (demo, traces):
        offered = demo.output().partition("Everything keeps running")[2]
        *commands, shell = re.findall(r"^  (\S.+)$", offered, re.MULTILINE)
        page, listed, checked, files, log, containers = map(_run, commands)

        assert "this pod has no image" in page
        assert "demo/web:1" in listed
        assert "this node is ready" in checked
        assert "-demo-web" in files
        assert "environment ready" in log
        assert "flox/empty" in containers
        assert "hello" in _run(shell.replace("--tty ", "") + " -c env")

        demo.signal(signal.SIGINT)

        assert demo.wait() == 0, demo.tail()
        assert "All of this was verified" in demo.output()
        assert remains(place, traces) == []


def _are_gone(place: Path, traces: Traces) -> bool:
    """Return whether nothing is left; the guards may be removing things meanwhile."""
    try:
        return not remains(place, traces)
    except FileNotFoundError:  # it was removed meanwhile
        return False


def _run(command: str) -> str:
    """Run a command, which must succeed; return its output."""
    done = subprocess.run(
        command.split(), capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _content_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # a process that has ended
