"""Child programs of the daemon: how one is started, kept running, and ended.

    parent                                                child
      environment: a few variables, no more ────────────> starts in a session of its own
      stdin: an `InitMessage` and a newline ────────────> `begin`: sets priority, returns settings
      stdin: whatever the program is for ───────────────> reads until the end of its input
      stdin closed ─────────────────────────────────────> exits, or is killed after a grace

A child ignores the signals that a terminal or systemd sends to every process at once; only the end
of its input ends it. The kernel closes that pipe when the parent is killed, so no child outlives
the daemon. A `Supervisor` starts one again when it has ended, after pauses that grow.

Programs are started with vfork: the daemon has gRPC's threads, which do not survive a fork.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from cri_proxy.lib import codec, pipe, scheduling

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 5.0
NICE: Final = 10
VARIABLES: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("RES_OPTIONS", "LOCALDOMAIN"),  # resolv.conf(5)
    "JOURNAL_STREAM",  # systemd.exec(5): whether log lines go to the journal
)
"""The variables of the daemon's environment that every child gets."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start: the settings in its init message, and what it inherits.

    It gets `variables` beyond `VARIABLES`; a name that ends in an underscore stands for all that
    begin with it.
    """

    argv: Sequence[str]
    settings: object
    variables: Sequence[str] = ()
    descriptors: Sequence[int] = ()
    nice: int = NICE


class Child:
    """One running program; its standard output goes to our standard error."""

    def __init__(self, program: Program) -> None:
        """Start it. Raises OSError when it cannot be started."""
        self._process = spawn(
            program.argv, variables=program.variables, descriptors=program.descriptors
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        self._writing = threading.Lock()
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which `wait` reports
            self._input.write(init_line_of(program.settings, program.nice))
            self._input.flush()
        os.set_blocking(self._input.fileno(), False)

    def write(self, data: bytes | bytearray) -> int:
        """Write as much as the pipe takes without waiting; return how much.

        Raises OSError when the program has ended.
        """
        with self._writing:  # the descriptor must not be another file's by now
            if self._input.closed:
                raise BrokenPipeError("the program has ended")
            try:
                return os.write(self._input.fileno(), data)
            except BlockingIOError:
                return 0

    def wait(self) -> int:
        """Wait until it has ended by itself; return its exit status."""
        status = self._process.wait()
        self._close_input()
        return status

    def end(self, seconds: float = GRACE_SECONDS) -> int:
        """Close its input, and kill it if it has not ended within `seconds`."""
        self._close_input()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _close_input(self) -> None:
        with self._writing, contextlib.suppress(OSError):
            self._input.close()


class Supervisor:
    """Keeps a program running from now until `stop`, by a thread of its own.

    `on_end` is called in that thread when the program has ended or could not be started, with the
    reason `why` and the seconds until the next start `again_in`.
    """

    def __init__(self, program: Program, on_end: Callable[..., None]) -> None:
        self._program = program
        self._on_end = on_end
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self.child: Child | None = None
        """The program as it was last started; None if it could not be. It may have ended."""
        self._outcome = ""
        self._start()
        self._thread = threading.Thread(target=self._keep, name=program.argv[-1], daemon=True)
        self._thread.start()

    def stop(self, seconds: float = GRACE_SECONDS) -> None:
        """End the program; kill it after `seconds`."""
        self._stopping.set()
        with self._starting:
            child = self.child
        if child is not None:
            child.end(seconds)
        self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._stopping.is_set():
                return
            try:
                self.child = Child(self._program)
            except OSError as error:
                self.child = None
                self._outcome = f"it cannot be started: {error}"

    def _keep(self) -> None:
        pause = 0.0
        while True:
            began = time.monotonic()
            if self.child is not None:
                self._outcome = f"exit status {self.child.wait()}"
            if self._stopping.is_set():
                return
            pause = pause_after(pause, ran_seconds=time.monotonic() - began)
            self._on_end(why=self._outcome, again_in=pause)
            self._stopping.wait(pause)
            self._start()


def spawn(
    argv: Sequence[str],
    *,
    variables: Sequence[str] = (),
    descriptors: Sequence[int] = (),
    channel: socket.socket | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program as a child; raise OSError when it cannot be started.

    It sees `variables` as in `Program`. Its standard input is a pipe and its standard output our
    standard error, or both are `channel`.
    Popen uses vfork, which takes the event loop some tenths of a millisecond; programs of asyncio
    are forked by uvloop, which takes several.
    """
    prefixes = tuple(name for name in variables if name.endswith("_"))
    names = {*VARIABLES, *variables}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith(prefixes)
    }
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if channel is None else channel.fileno(),
        stdout=2 if channel is None else channel.fileno(),
        env=environment,
        pass_fds=descriptors,
        start_new_session=True,
    )


def pause_after(last: float, *, ran_seconds: float) -> float:
    """Return the seconds to wait before the next start; `last` were waited before this one.

    A program that ran for longer than the longest pause begins with the shortest again.
    """
    if not last or ran_seconds > LONGEST_PAUSE_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(2 * last, LONGEST_PAUSE_SECONDS)


def init_line_of(settings: object, nice: int) -> bytes:
    """Return the first line that a child reads."""
    return codec.encode(pipe.InitMessage(msgspec.Raw(codec.encode(settings)), nice)) + b"\n"


def begin(kind: type[T]) -> T | None:
    """Make this process a child; return the settings in its init message, of class `kind`.

    None if the parent is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return None
    message = codec.decode(line, pipe.InitMessage)
    scheduling.compute(message.nice)
    return codec.decode(message.settings, kind)
