"""Child programs that do not outlive the process that started them.

A `Program` runs in its own process group and writes to a log file, whose tail is part of every
error about it. It is stopped at the end of its context. If the test process is killed, even by
SIGKILL, its `Guard` stops it: a shell that reads from a pipe that only the test process can write
to, and acts when the pipe is closed without a message.

Programs that leave their process group (containerd's shims) need more: see `sweeping`. For programs
that are restarted, see `daemons`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from hack.testbed import waiting

STOP_SECONDS: Final = 20.0
_TAIL_LINES: Final = 40


class Guard:
    """Runs `argv` when this process has ended, unless it is dismissed before."""

    def __init__(self, argv: Sequence[str], *, cwd: Path | None = None) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r word || "$@"', "guard", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C must reach the tests, but not the clean-up
        )

    def dismiss(self) -> None:
        """End the guard without running `argv`."""
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            self._shell.stdin.write(b"dismissed\n")
            self._shell.stdin.close()
        self._shell.wait()


class Program:
    """A running program: `pid`, `log` (a file with its stdout and stderr) and ways to stop it."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start `argv`; the log is appended to, so that all runs of a program share a file."""
        self.argv: Final = [str(word) for word in argv]
        self.log: Final = log
        with log.open("ab") as output:
            self._log_start: Final = output.tell()
            self._process: Final = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        self.pid: Final = self._process.pid
        self._guard: Final = Guard(["kill", "-KILL", f"-{self.pid}"])

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with {self._process.returncode}"
        return f"<{Path(self.argv[0]).name}, pid {self.pid}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the program itself (not its children) is still running."""
        return self._process.returncode is None and not _has_ended(self.pid)

    def output(self) -> str:
        """Return the output of this run of the program so far."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """Return the last lines of the output, with a heading."""
        lines = self.output().splitlines()[-_TAIL_LINES:]
        return "\n".join([f"{self!r}, end of {self.log}:", *lines])

    def await_output(self, pattern: str, *, seconds: float = waiting.DEADLINE_SECONDS) -> str:
        """Wait for output to match the regular expression `pattern`, and return the match."""

        def seen() -> str | None:
            is_over = not self.is_running  # checked before reading, so that the last output counts
            match = re.search(pattern, self.output(), re.MULTILINE)
            if match is None and is_over:
                raise ProgramEnded(f"ended before it wrote {pattern!r}: {self.tail()}")
            return None if match is None else match.group()

        return waiting.until(
            seen, what=f"{pattern!r} in the output", seconds=seconds, explain=self.tail
        )

    def await_ready(
        self,
        probe: Callable[[], bool],
        *,
        what: str,
        seconds: float = waiting.DEADLINE_SECONDS,
        explain: Callable[[], str] | None = None,
    ) -> None:
        """Wait until `probe` is true; fail on a timeout or if the program ends."""

        def is_ready() -> bool:
            if not self.is_running:
                raise ProgramEnded(f"ended while waiting for {what}: {self.tail()}")
            return probe()

        waiting.until(is_ready, what=what, seconds=seconds, explain=explain or self.tail)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, unless it has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    def wait(self, *, seconds: float = waiting.DEADLINE_SECONDS) -> int:
        """Return the exit code (negative: the signal), and kill the rest of its process group."""
        waiting.until(
            lambda: not self.is_running,
            what=f"the end of {self.argv[0]}",
            seconds=seconds,
            explain=self.tail,
        )
        return self._reap()

    def kill(self) -> int:
        """Kill the program and its process group with SIGKILL."""
        if self._process.returncode is None:
            _signal_group(self.pid)
        return self._reap()

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Stop the program with SIGTERM, and after `seconds` with SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(seconds=seconds)
        except waiting.DeadlineExceeded:
            return self.kill()

    def _reap(self) -> int:
        """Collect the exit code.

        The group is killed first: as long as its dead leader is not collected, its id cannot be
        reused.
        """
        if self._process.returncode is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            _signal_group(self.pid)
            self._process.wait()
            self._guard.dismiss()
        return self._process.returncode


class ProgramEnded(AssertionError):
    """The program ended unexpectedly."""


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is `pid` now."""
    return [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdecimal() and _state_of(int(each.name))[1] == pid
    ]


def is_running(pid: int) -> bool:
    """Return whether the process exists and is more than an exit code that nothing has read."""
    return _state_of(pid)[0] not in "ZX"


def _state_of(pid: int) -> tuple[str, int]:
    """Return state and parent of a process, proc_pid_stat(5); X and 0 if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


def _has_ended(pid: int) -> bool:
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, pid, options) is not None


def _signal_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # the group has ended, or only its zombie leader is left
