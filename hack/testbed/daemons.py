"""A program that is started, killed and restarted, as daemons on a node are.

A subclass of `Daemon` defines how its program is launched and when it is ready. It can be used from
`start` (or `with`) to `stop`. Errors include the end of its log, and it ends with the process that
started it: see `processes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from hack.testbed import processes


class Daemon(ABC):
    """A daemon; `title` is its name in errors."""

    title: ClassVar[str]
    _program: processes.Program | None = None

    def __repr__(self) -> str:
        return f"<{self.title}, {self._program or 'not started'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.program.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists."""
        return self._program is not None and self._program.is_running

    @property
    def program(self) -> processes.Program:
        """The program of the last `start`, which may have ended."""
        if self._program is None:
            raise RuntimeError(f"{self.title} has not been started, or has been stopped")
        return self._program

    def start(self, *, awaited: bool = True) -> None:
        """Start it, and wait until it is ready unless `awaited` is false; on failure, stop it."""
        self._begin(awaited=awaited)

    def stop(self) -> None:
        """Stop it and wait until it has ended; do nothing if it is not running."""
        self._end()

    def kill(self) -> None:
        """Kill it by SIGKILL, like a crash."""
        self.program.kill()

    def restart(self) -> None:
        """Stop it and start it again; its files on disk are kept."""
        self._end()
        self._begin()

    @abstractmethod
    def launch(self) -> processes.Program:
        """Start its program, after everything has been prepared."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it answers; called repeatedly while it runs."""

    def _begin(self, *, awaited: bool = True) -> None:
        self._program = self.launch()
        if not awaited:
            return
        try:
            self._program.await_ready(self.is_ready, what=f"{self.title} to be ready")
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None
