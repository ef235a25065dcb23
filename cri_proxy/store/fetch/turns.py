"""Turns: which of a worker's concurrent jobs computes next in the event loop's thread.

Such a job computes for some tenths of a millisecond whenever something has arrived for it. It asks
for a turn before, so that jobs that are urgent, for others wait for what they find, compute first,
and then as many others. Between two rounds the event loop takes in what has arrived meanwhile.
"""

from __future__ import annotations

import asyncio
import collections


class Turns:
    """The turns of one event loop; of its thread."""

    def __init__(self) -> None:
        self._urgent: collections.deque[asyncio.Future[None]] = collections.deque()
        self._others: collections.deque[asyncio.Future[None]] = collections.deque()
        self._is_going_round = False

    async def take(self, *, is_urgent: bool = False) -> None:
        """Wait for a turn, which lasts until the next `await`."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        (self._urgent if is_urgent else self._others).append(turn)
        if not self._is_going_round:
            self._is_going_round = True
            loop.call_soon(self._go_round)
        await turn

    def _go_round(self) -> None:
        """Give turns to urgent jobs and as many others, at least one."""
        urgent = len(self._urgent)
        for _ in range(urgent):
            _give(self._urgent.popleft())
        for _ in range(min(len(self._others), max(1, urgent))):
            _give(self._others.popleft())
        self._is_going_round = bool(self._urgent or self._others)
        if self._is_going_round:
            asyncio.get_running_loop().call_soon(self._go_round)


def _give(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # cancelled jobs have no use for it
        turn.set_result(None)
