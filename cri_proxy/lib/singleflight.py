"""Single-flight: concurrent calls with the same key share one run of the work.

The first `fly` with a key starts the work in a task of the flight's own; others with the same key
join it, and all share its result or its exception. When it is done the key is forgotten: this is
no cache.

When all callers of some work have gone, `is_lasting` decides: with it the work goes on and the next
caller joins it (a pod whose deadline passed is retried), without it the work is cancelled (a store
path of a closure that has failed).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """All flights of one kind of work; belongs to one event loop."""

    def __init__(self, *, is_lasting: bool = True) -> None:
        self._is_lasting = is_lasting
        self._flights: dict[K, _Flight[V]] = {}
        self._leaving: set[asyncio.Task[V]] = set()

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def fly(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return the result of the flight of `key`, which begins with `work()` if there is none.

        Cancelling the caller never cancels the flight for others. Joining work that has been
        cancelled for lack of callers is not possible: the key is free again at that moment.
        """
        flight = self._flights.get(key)
        if flight is None or flight.task.done():
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
            flight.task.add_done_callback(lambda task: self._land(key, task))
        flight.callers += 1
        try:
            await asyncio.wait((flight.task,))
        finally:
            flight.callers -= 1
            if not flight.callers and not self._is_lasting and not flight.task.done():
                del self._flights[key]
                self._leaving.add(flight.task)  # else it might be collected meanwhile
                flight.task.cancel()
        if flight.task.cancelled():
            raise asyncio.CancelledError
        return flight.task.result()

    async def aclose(self) -> None:
        """Cancel all work and wait until it has ended."""
        tasks = {flight.task for flight in self._flights.values()} | self._leaving
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _land(self, key: K, task: asyncio.Task[V]) -> None:
        self._leaving.discard(task)
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # retrieved here: there may be no caller left to do so


@dataclass(slots=True)
class _Flight(Generic[V]):
    """The task of a key, and how many wait for it."""

    task: asyncio.Task[V]
    callers: int = 0
