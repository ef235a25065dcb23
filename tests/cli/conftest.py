"""The command line as users run it: in a pipe, and at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.testbed.sites import Site
from tests.node.conftest import NODES

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in.py")
DEADLINE_SECONDS = 60.0


@dataclass
class Ended:
    """A command that has ended; at a terminal `output` is all that came to the screen."""

    code: int
    output: str
    errors: str = ""

    @property
    def text(self) -> str:
        """The output without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output)


class Commands:
    """Runs commands; none sees settings of this machine or of the test's own environment."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        config = directory / "empty.toml"
        config.touch()
        hidden = re.compile(r"CRI_PROXY_|OTEL_|NO_COLOR|FORCE_COLOR|.*_proxy$|.*_PROXY$|PYTEST")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not hidden.match(name)},
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "COLUMNS": "",
            "CRI_PROXY_CONFIG": str(config),
            "CRI_PROXY_STORE_ROOT": str(self.root),
        }

    def in_pipe(self, *arguments: str, is_stand_in: bool = False, **variables: str) -> Ended:
        """Run a command whose output is read by a program."""
        done = subprocess.run(
            self._argv(arguments, is_stand_in),
            env=self._environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def at_terminal(
        self,
        *arguments: str,
        is_stand_in: bool = False,
        interrupt_at: str | None = None,
        size: tuple[int, int] = (40, 120),
        **variables: str,
    ) -> Ended:
        """Run a command at a terminal; press Ctrl-C when the screen shows `interrupt_at`."""
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        program = subprocess.Popen(
            self._argv(arguments, is_stand_in),
            env=self._environment | variables,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(terminal)
        try:
            output = _read(controller, interrupt_at)
            return Ended(program.wait(DEADLINE_SECONDS), output)
        finally:
            os.close(controller)
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()

    def _argv(self, arguments: tuple[str, ...], is_stand_in: bool) -> list[str]:
        program = [str(STAND_IN)] if is_stand_in else ["-m", "cri_proxy"]
        return [sys.executable, *program, *arguments]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """A way to run commands, with a store of their own."""
    return Commands(tmp_path)


@pytest.fixture
def stand_in(commands: Commands) -> Callable[..., Ended]:
    """Run a command at a terminal, with a small realizer in the daemon's place."""
    return lambda *arguments, **options: commands.at_terminal(
        *arguments, is_stand_in=True, **options
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The unpacked image of a node that kubeadm has joined to a cluster."""
    directory = tmp_path / "image"
    for path, text in NODES["kubeadm-flags"].items():
        file = directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server, which says that it is a binary cache."""
    with Site() as running:
        yield running


def _take_terminal() -> None:
    """Make the terminal the session's own, so that Ctrl-C typed at it is a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(controller: int, interrupt_at: str | None) -> str:
    """Return everything until the other side closes; type Ctrl-C once a text has appeared."""
    data = b""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        if not select.select([controller], [], [], 1.0)[0]:
            continue
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # EIO: no process has the terminal open any more
            break
        if not chunk:
            break
        data += chunk
        if interrupt_at is not None and interrupt_at.encode() in data:
            os.write(controller, b"\x03")
            interrupt_at = None
    return data.decode(errors="replace")
