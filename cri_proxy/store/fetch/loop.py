"""The loop: one thread of a worker, which carries all jobs that wait for many answers.

Such a job computes for some tenths of a millisecond whenever an answer comes. In threads of their
own jobs would hand the interpreter's lock to each other at every call of the kernel, which costs
more than what they do. Here they have turns: a job is a generator, and where it yields, others go
on. What it yields is what it waits for:

    seconds    until its volley has something to do for it, or that long; 0: until it is its turn
    a future   until that is done, or its volley has something

What it returns is its result. A turn must not wait for anybody else, and should be short. Jobs that
are urgent, for others wait for what they find, have theirs first, and then as many others.

The thread is there while there are jobs.
"""

from __future__ import annotations

import collections
import logging
import math
import os
import select
import threading
import time
import weakref
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Final, Generic, Protocol, TypeVar

_LONGEST_SECONDS: Final = 60.0
_logger = logging.getLogger(__name__)

T = TypeVar("T")
Turns = Generator["float | Future[Any]", None, T]
"""A job, from its first turn to its result."""


class Polled(Protocol):
    """What a job waits for: a volley."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to do."""
        ...


class Loop:
    """Runs jobs for other threads."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._bell)
        self._changing = threading.Lock()
        self._has_thread = False
        self._rung: collections.deque[_Running[Any]] = collections.deque()  # by other threads
        self._running: dict[int, _Running[Any]] = {}
        self._urgent: collections.deque[_Running[Any]] = collections.deque()
        self._others: collections.deque[_Running[Any]] = collections.deque()

    def start(self, turns: Turns[T], polled: Polled, *, is_urgent: bool = False) -> Future[T]:
        """Run a job; the future has its result, or what it raises. `polled` is open until then."""
        running = _Running(turns, polled.fileno(), is_urgent=is_urgent)
        with self._changing:
            self._rung.append(running)
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._serve, name="loop", daemon=True).start()
        os.eventfd_write(self._bell, 1)
        return running.outcome

    def _serve(self) -> None:
        """Give turns until there are no jobs."""
        with select.epoll() as poll:
            poll.register(self._bell, select.EPOLLIN)
            while not self._is_done():
                try:
                    self._go_round(poll)
                except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                    self._fail(error)

    def _is_done(self) -> bool:
        """Whether there are no jobs; the next one finds no thread then."""
        if self._running or self._rung:
            return False
        with self._changing:
            self._has_thread = bool(self._rung)
            return not self._has_thread

    def _go_round(self, poll: select.epoll) -> None:
        """Wait until somebody has something to do; give turns to urgent jobs and as many others."""
        for descriptor, _ in poll.poll(self._patience()):
            if descriptor == self._bell:
                self._answer(poll)
            elif (running := self._running.get(descriptor)) is not None:
                self._call(running)
        now = time.monotonic()
        for each in self._running.values():
            if each.due <= now:
                self._call(each)
        urgent = len(self._urgent)
        for _ in range(urgent):
            self._give_turn(self._urgent.popleft(), poll)
        for _ in range(min(len(self._others), max(1, urgent))):
            self._give_turn(self._others.popleft(), poll)

    def _patience(self) -> float:
        """Return the seconds until somebody's time is over."""
        if self._urgent or self._others:
            return 0
        due = min((each.due for each in self._running.values()), default=math.inf)
        return min(max(0.0, due - time.monotonic()), _LONGEST_SECONDS)

    def _answer(self, poll: select.epoll) -> None:
        """Take in those that are new, and call those whose future is done."""
        os.eventfd_read(self._bell)
        while self._rung:
            rung = self._rung.popleft()
            if not rung.has_begun:
                rung.has_begun = True
                self._running[rung.descriptor] = rung
                poll.register(rung.descriptor, select.EPOLLIN)
            self._call(rung)

    def _call(self, running: _Running[Any]) -> None:
        """Have a job wait for its turn, once."""
        if not running.is_called and not running.outcome.done():
            running.is_called = True
            (self._urgent if running.is_urgent else self._others).append(running)

    def _give_turn(self, running: _Running[Any], poll: select.epoll) -> None:
        """Have a job go on to where it waits again, or to its end."""
        running.is_called = False
        try:
            awaited = next(running.turns)
        except StopIteration as end:
            self._end(running, poll)
            running.outcome.set_result(end.value)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._end(running, poll)
            running.outcome.set_exception(error)
        else:
            if isinstance(awaited, Future):
                running.due = math.inf
                awaited.add_done_callback(lambda _: self._ring(running))
            else:
                running.due = time.monotonic() + awaited

    def _ring(self, running: _Running[Any]) -> None:
        """Have a job called by another thread."""
        self._rung.append(running)
        os.eventfd_write(self._bell, 1)

    def _end(self, running: _Running[Any], poll: select.epoll) -> None:
        """Forget a job, before whoever waits for it closes what it polls."""
        del self._running[running.descriptor]
        poll.unregister(running.descriptor)

    def _fail(self, error: BaseException) -> None:
        """Give all jobs up, for a fault of the loop's own."""
        _logger.error("the loop of this worker's jobs has failed", exc_info=error)
        failed = (*self._running.values(), *self._rung)
        for gone in (self._running, self._rung, self._urgent, self._others):
            gone.clear()
        for each in failed:
            if not each.outcome.done():
                each.turns.close()
                each.outcome.set_exception(error)


class _Running(Generic[T]):
    """A job that is under way."""

    __slots__ = (
        "descriptor",
        "due",
        "has_begun",
        "is_called",
        "is_urgent",
        "outcome",
        "turns",
    )

    def __init__(self, turns: Turns[T], descriptor: int, *, is_urgent: bool) -> None:
        self.turns = turns
        self.descriptor = descriptor
        self.is_urgent = is_urgent
        self.outcome: Future[T] = Future()
        self.due = math.inf
        self.is_called = False
        self.has_begun = False
