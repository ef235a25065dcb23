"""A concurrent fetcher: many small files from caches, by coroutines of one event loop.

    ask        a `Wanted`: the caches to look for a file, in order, and how it is used
    arrival    wait until there is something to use
    outcomes   use files that have arrived; each file's result or failure, once

A fixed number of coroutines take files from a queue, so that a request costs no task of its own.
They only move bytes: `outcomes` uses the files, and its caller decides whose turn it is to compute.

A miss goes on to the next cache. Any other failure (a cache that breaks off, an untrusted
signature) goes to the file's `fallback`, in a thread, which retries and knows all other ways.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled
from cri_proxy.store.caches.cache import REFUSALS, Cache, Site

K = TypeVar("K")
V = TypeVar("V")
Check = Callable[[], None]


@dataclass(slots=True, eq=False)
class Wanted(Generic[K, V]):
    """A file to fetch: `key` is the caller's own name for it.

    `sources` are caches in the order to look for the file `name`. `use` makes the result of a file;
    it raises one of REFUSALS if the file is no good. `fallback` makes the result in another way; it
    may block, and calls its argument now and then, which may raise.
    """

    key: K
    sources: Iterable[Cache]
    name: str
    use: Callable[[Cache, bytes], V]
    fallback: Callable[[Check], V]


Outcome = tuple[Wanted[K, V], V | BaseException]


@dataclass(slots=True)
class Fetcher(Generic[K, V]):
    """The files that one job wants, at most `width` requests at a time; to be closed.

    `threads` run the fallbacks.
    """

    width: int
    threads: Executor
    _queue: collections.deque[Wanted[K, V]] = field(default_factory=collections.deque)
    _arrived: collections.deque[tuple[Wanted[K, V], Cache, bytes]] = field(
        default_factory=collections.deque
    )
    _outcomes: list[Outcome[K, V]] = field(default_factory=list)
    _open: int = 0  # files without an outcome
    _idle: list[asyncio.Future[None]] = field(default_factory=list)  # workers without a file
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _workers: int = 0
    _waiter: asyncio.Future[None] | None = None
    _is_closed: bool = False

    @property
    def is_asking(self) -> bool:
        """Whether there is a file without an outcome, or an outcome that was not taken."""
        return bool(self._open or self._outcomes)

    def ask(self, wanted: Wanted[K, V]) -> None:
        """Begin to fetch a file, as soon as the width allows."""
        self._open += 1
        self._queue.append(wanted)
        if self._idle:
            self._idle.pop().set_result(None)
        elif self._workers < self.width:
            self._workers += 1
            self._start(self._work())

    def outcomes(self, *, at_most: int) -> list[Outcome[K, V]]:
        """Use so many of the files that have arrived; return what has an outcome."""
        for _ in range(min(at_most, len(self._arrived))):
            self._use(*self._arrived.popleft())
        taken, self._outcomes = self._outcomes, []
        return taken

    async def arrival(self, seconds: float | None = None) -> None:
        """Wait until `outcomes` has something to do, or for so long."""
        if self._arrived or self._outcomes or not self._open:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Give up the files that have no outcome yet."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while True:
            while self._queue:
                wanted = self._queue.popleft()
                try:
                    await self._fetch(wanted)
                except Exception as error:  # noqa: BLE001 - the outcome of this file
                    self._end(wanted, error)
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    async def _fetch(self, wanted: Wanted[K, V]) -> None:
        for source in wanted.sources:
            try:
                if isinstance(source, Site):
                    data = await source.fetch(wanted.name)
                elif source.is_near:
                    data = source.read(wanted.name)
                else:
                    break
            except errors.NotFound:
                continue
            except REFUSALS:
                break
            self._arrived.append((wanted, source, data))
            self._wake()
            return
        self._start(self._fall_back(wanted))

    def _use(self, wanted: Wanted[K, V], source: Cache, data: bytes) -> None:
        try:
            self._end(wanted, wanted.use(source, data))
        except REFUSALS:
            self._start(self._fall_back(wanted))
        except BaseException as error:  # noqa: BLE001 - the outcome of this file
            self._end(wanted, error)

    async def _fall_back(self, wanted: Wanted[K, V]) -> None:
        """Make the result in the other way; not within the width, for it may wait for others."""

        def check() -> None:
            if self._is_closed:
                raise Cancelled

        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self.threads, wanted.fallback, check)
            self._end(wanted, made)
        except Exception as error:  # noqa: BLE001 - the outcome of this file
            self._end(wanted, error)

    def _end(self, wanted: Wanted[K, V], outcome: V | BaseException) -> None:
        self._open -= 1
        self._outcomes.append((wanted, outcome))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
