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

from cri_proxy.router import counting, link
from cri_proxy.router.connection import needles_of

ENDLESS: Final = frozenset(
    {
        "/runtime.v1.RuntimeService/GetContainerEvents",
        "/containerd.services.events.v1.Events/Subscribe",
    }
)
"""Calls that end only with their connection, and that a drain does not wait for."""
LARGEST_CONNECTIONS: Final = 1024
DRAIN_SECONDS: Final = 60.0

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
        self._needles = needles_of(interposed, endless)
        self._table = table
        self._servers: list[asyncio.Server] = []
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
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            server = await loop.create_unix_server(self._protocol, sock=listener, backlog=1024)
            self._servers.append(server)

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

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _protocol(self) -> asyncio.Protocol:
        return link.Link(
            self._needles,
            table=self._table,
            upstream=self._upstream,
            interposer=self._interposer,
            on_open=self._opened,
            on_close=self._closed,
        ).downstream()

    def _opened(self, opened: link.Link) -> None:
        self._links.add(opened)
        self._is_empty.clear()
        if len(self._links) > LARGEST_CONNECTIONS:
            _log.warning("a connection is refused: there are %d", LARGEST_CONNECTIONS)
            opened.core.upstream_lost()

    def _closed(self, closed: link.Link) -> None:
        self._links.discard(closed)
        if not self._links:
            self._is_empty.set()
