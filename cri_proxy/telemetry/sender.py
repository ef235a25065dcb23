"""The sender's near half: a program of its own that sends spans, and the pipe to it.

The daemon starts `cri-proxy sender` (`exporting`) and writes lines of JSON to its standard input:
one greeting, then a span each. OpenTelemetry's SDK, its HTTP client and its gRPC live there: in the
daemon they would take memory, turns of the interpreter, and stand beside the gRPC that relays
kubelet's calls. The end of the pipe has it send what it has and leave, so a daemon that is killed
loses no span that it had written.

The pipe never blocks: what it does not take at once waits here, up to a bound, and is lost above
that. A program that died is started again, at most every `RESTART_SECONDS`. All of it belongs to
the outlet's thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cri_proxy.telemetry import logs

RESTART_SECONDS: Final = 10.0
_BACKLOG_BYTES: Final = 4 * 1024 * 1024
_log = logs.of(__name__)


class SpanSender:
    """The program `argv`, greeted with `greeting`; started at once."""

    def __init__(self, argv: Sequence[str], greeting: Mapping[str, Any]) -> None:
        self._argv = tuple(argv)
        self._greeting = f"{json.dumps(greeting)}\n".encode()
        self._backlog = bytearray()
        self._lost = 0
        self._program: subprocess.Popen[bytes] | None = None
        self._started_at = -RESTART_SECONDS
        self._start()

    @property
    def has_backlog(self) -> bool:
        """Whether the pipe has yet to take something."""
        return bool(self._backlog)

    def add(self, trace_id: str, state: str, text: str) -> None:
        """Send the record of a span with the next `flush`."""
        if len(self._backlog) < _BACKLOG_BYTES:
            line = f'{{"trace_id":"{trace_id}","state":{json.dumps(state)},"span":{text}}}\n'
            self._backlog += line.encode()
        else:
            self._lost += 1

    def flush(self) -> None:
        """Write what the pipe takes."""
        if self._program is None and time.monotonic() - self._started_at >= RESTART_SECONDS:
            self._start()
        if self._program is None or self._program.stdin is None:
            return
        try:
            while self._backlog:
                del self._backlog[: os.write(self._program.stdin.fileno(), self._backlog)]
        except BlockingIOError:
            return
        except OSError as error:
            self._abandon(error)
            return
        if self._lost:
            _log.warning("traces are lost: more than can be sent", spans=self._lost)
            self._lost = 0

    def close(self, seconds: float) -> None:
        """Have it send what it has, and end it."""
        program, self._program = self._program, None
        if program is None or program.stdin is None:
            return
        program.stdin.close()
        try:
            program.wait(seconds)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        try:
            program = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        except OSError as error:
            _log.warning("traces are not sent: their program cannot be started", why=error)
            return
        assert program.stdin is not None
        os.set_blocking(program.stdin.fileno(), False)
        self._program = program
        # It may have been cut off in the middle of a line.
        self._backlog[:] = self._greeting + _whole_lines(self._backlog)

    def _abandon(self, error: OSError) -> None:
        program, self._program = self._program, None
        if program is not None:
            status = _ended(program)
            _log.warning("the program that sends traces ended", status=status, why=error)


def _whole_lines(backlog: bytearray) -> bytes:
    """Return what is left of the lines after the first, which may have been cut off."""
    return bytes(backlog[backlog.find(b"\n") + 1 :])


def _ended(program: subprocess.Popen[bytes]) -> int:
    """Wait for a program that has closed its input."""
    assert program.stdin is not None
    with contextlib.suppress(OSError):  # what was in the pipe is lost
        program.stdin.close()
    try:
        return program.wait(1)
    except subprocess.TimeoutExpired:
        program.kill()
        return program.wait()
