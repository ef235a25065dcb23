"""A job: one kind of work that the daemon sends to its workers, and the types of what it carries.

Each is defined once, as a value in a module that both sides import:

    SURVEY: Final = Job("store.survey", Survey, list[Fact], list[Fact])

The daemon calls it with `workers.Pool.call(SURVEY, Survey(roots=...))`, a worker has it in its
table as `SURVEY.run_by(function)`. mypy compares argument, reports and result with the definition
on both sides, so neither can be changed without the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")

NOTHING: Final = type(None)
"""The type of an argument, report or result that a job does not have."""


class Cancelled(Exception):
    """The caller has given up: the job should discard what it staged and return."""


class Task(Generic[P]):
    """One run of a job, as the job sees it."""

    def __init__(self, report: Callable[[P], None]) -> None:
        self._report = report
        self._cancelled = threading.Event()
        self._listeners: list[Callable[[], object]] = []

    def report(self, progress: P) -> None:
        """Send `progress` to the caller; the job decides how often."""
        self._report(progress)

    def check(self) -> None:
        """Raise Cancelled if the caller has given up."""
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Make the next `check` raise."""
        self._cancelled.set()
        for listener in self._listeners:
            listener()

    def on_cancel(self, listener: Callable[[], object]) -> None:
        """Call `listener` when the caller gives up, in any thread; perhaps twice."""
        self._listeners.append(listener)
        if self._cancelled.is_set():
            listener()


@dataclass(frozen=True, slots=True)
class Job(Generic[A, P, R]):
    """The name of a job, and the types of its argument, its progress reports and its result."""

    name: str
    argument: type[A]
    progress: type[P]
    result: type[R]

    def run_by(self, function: Callable[[A, Task[P]], R]) -> Implementation:
        """Return this job as `function` does it, in a thread of its own."""
        return Implementation(self, function)

    def started_by(self, start: Callable[[A, Task[P]], Future[R]]) -> Implementation:
        """Return this job as `start` begins it: without waiting, for a future with the result."""
        return Implementation(self, lambda argument, task: start(argument, task).result(), start)


@dataclass(frozen=True, slots=True)
class Implementation:
    """A job and the function that does it; `start` only begins it and returns a future."""

    job: Job[Any, Any, Any]
    run: Callable[[Any, Task[Any]], Any]
    start: Callable[[Any, Task[Any]], Future[Any]] | None = None


class Jobs:
    """A worker's table of jobs."""

    def __init__(self, *implementations: Implementation) -> None:
        self._by_name = {each.job.name: each for each in implementations}

    def __contains__(self, job: Job[Any, Any, Any]) -> bool:
        return job.name in self._by_name

    def __getitem__(self, job: Job[A, P, R]) -> Callable[[A, Task[P]], R]:
        """Return the function that does `job`, to be run in this process."""
        return cast("Callable[[A, Task[P]], R]", self._by_name[job.name].run)

    def __or__(self, others: Jobs) -> Jobs:
        """Return a table with the jobs of both."""
        return Jobs(*self._by_name.values(), *others._by_name.values())

    def named(self, name: str) -> Implementation:
        """Return the implementation of the job called `name`; raise KeyError if there is none."""
        return self._by_name[name]
