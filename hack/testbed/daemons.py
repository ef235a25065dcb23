"""A program under one name that is started, killed and started again, as daemons on a node are.

A `Daemon` says how its program is launched and when it is ready; the rest is alike for all. It is
usable from `start` (or `with`) to `stop`. What became of it in between is explained by the end of
its log, and it ends with the process that started it: see `processes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from hack.testbed import processes


class Daemon(ABC):
    """One daemon; `title` is what errors call it."""

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
        """Whether it is there."""
        return self._program is not None and self._program.is_running

    @property
    def program(self) -> processes.Program:
        """What runs, or has run since the last `start`."""
        if self._program is None:
            raise RuntimeError(f"{self.title} has not been started, or has been stopped")
        return self._program

    def start(self, *, awaited: bool = True) -> None:
        """Start it, and wait until it is ready unless `awaited` is false; if it fails, end it."""
        self._begin(awaited=awaited)

    def stop(self) -> None:
        """Ask it to end, and see that it does; no harm when it has."""
        self._end()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self.program.kill()

    def restart(self) -> None:
        """End it as `stop` does, and start it again; what it left on disk is not touched."""
        self._end()
        self._begin()

    @abstractmethod
    def launch(self) -> processes.Program:
        """Start its program, once all that it needs is laid."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers; asked as long as it runs."""

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
