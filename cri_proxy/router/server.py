"""The router: listening sockets, the connections that came by them, and how they end.

`start` serves; from then on every connection of downstream's is a `link.Link` of its own, and one
cannot disturb another. `drain` is the polite end: no new connection, every downstream asked to
leave, calls in flight finished, endless ones ended last. `close` is the end, at once; called while
a drain goes on, it cuts it short. Neither removes the socket files, which whoever bound them does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cri_proxy.router import counting, link, streams

ENDLESS: Final = frozenset(
    {
        "/runtime.v1.RuntimeService/GetContainerEvents",
        "/containerd.services.events.v1.Events/Subscribe",
    }
)
"""Calls that end only with their connection, and that a drain does not wait for."""
LARGEST_CONNECTIONS: Final = 1024
DRAIN_SECONDS: Final = 60.0
_ACCEPTED_AT_ONCE: Final = 100
_EXHAUSTED_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Router:
    """The fast lane from listening sockets to the runtime, past the interposer."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        upstream: Path,
        interposer: Path,
        interposed: frozenset[str],
        endless: frozenset[str] = ENDLESS,
        table: counting.Table | None = None,
    ) -> None:
        self._listeners = listeners
        self._upstream = upstream
        self._interposer = interposer
        self._needles = streams.needles_of(interposed, endless)
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._links: set[link.Link] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def connections(self) -> int:
        """How many connections of downstream's there are."""
        return len(self._links)

    @property
    def held_bytes(self) -> int:
        """How many bytes wait here because a downstream does not take more."""
        return sum(each.core.held_bytes for each in self._links)

    async def start(self) -> None:
        """Serve the listening sockets."""
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Accept no more, finish the calls in flight for at most `seconds`, then close."""
        self._stop_listening()
        for each in tuple(self._links):
            each.drain()
        try:
            await asyncio.wait_for(self._is_empty.wait(), seconds)
        except TimeoutError:
            _log.warning(
                "calls are cut off: not over in %d s connections=%d", seconds, len(self._links)
            )
        await self.close()

    async def close(self) -> None:
        """Close all connections, with whatever is in flight."""
        self._stop_listening()
        for each in tuple(self._links):
            each.close()
        await self._is_empty.wait()

    def _listen(self, listener: socket.socket) -> None:
        """Accept from now on, unless the listener has been closed meanwhile."""
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener.fileno())
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory left: others have to leave first
                _log.error("connections have to wait: %s", error.strerror or error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_EXHAUSTED_SECONDS, self._listen, listener)
                return
            accepted.setblocking(False)
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        if len(self._links) >= LARGEST_CONNECTIONS:
            _log.warning("a connection is refused: there are %d", LARGEST_CONNECTIONS)
            accepted.close()
            return
        opened = link.Link(
            self._needles,
            table=self._table,
            upstream=self._upstream,
            interposer=self._interposer,
            on_close=self._closed,
        )
        self._links.add(opened)
        self._is_empty.clear()
        opened.open(accepted)

    def _closed(self, closed: link.Link) -> None:
        self._links.discard(closed)
        if not self._links:
            self._is_empty.set()
