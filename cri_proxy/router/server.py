"""The router: listening sockets, the connections accepted from them, and their shutdown.

Every accepted connection is a `link.Link` of its own, and none affects another. A drain asks every
downstream to close its connection; `close` cuts it short. The socket files are removed by the code
that bound them, not here.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cri_proxy.router import counting, headers, link
from cri_proxy.telemetry import logs

ENDLESS: Final = frozenset(
    {
        "/runtime.v1.RuntimeService/GetContainerEvents",
        "/containerd.services.events.v1.Events/Subscribe",
    }
)
"""Calls that end only with their connection; a drain does not wait for them."""
LARGEST_CONNECTIONS: Final = 1024
DRAIN_SECONDS: Final = 60.0
_ACCEPTED_AT_ONCE: Final = 100
_EXHAUSTED_SECONDS: Final = 1.0

_log = logs.of(__name__)


class Router:
    """Forwards HTTP/2 frames from listening sockets to the runtime or the interposer."""

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
        self._new_link = functools.partial(
            link.Link,
            headers.MethodMatcher(interposed, endless),
            table=table,
            upstream=upstream,
            interposer=interposer,
            on_close=self._closed,
        )
        self._loop = asyncio.get_running_loop()
        self._links: set[link.Link] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def connections(self) -> int:
        """The number of downstream connections."""
        return len(self._links)

    @property
    def held_bytes(self) -> int:
        """Bytes held until the flow-control windows of downstream have room."""
        return sum(each.core.held_bytes for each in self._links)

    async def start(self) -> None:
        """Start accepting connections."""
        for listener in self._listeners:
            listener.setblocking(False)
            self._listen(listener)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Stop accepting, let calls in flight finish for at most `seconds`, then close."""
        self._stop_listening()
        for each in tuple(self._links):
            each.drain()
        try:
            await asyncio.wait_for(self._is_empty.wait(), seconds)
        except TimeoutError:
            _log.warning(
                "drain timed out, aborting calls", seconds=seconds, connections=len(self._links)
            )
        await self.close()

    async def close(self) -> None:
        """Close all connections, with calls in flight."""
        self._stop_listening()
        for each in tuple(self._links):
            each.close()
        await self._is_empty.wait()

    def _listen(self, listener: socket.socket) -> None:
        """Start accepting, unless the listener has been closed in the meantime."""
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
            except OSError as error:  # out of descriptors or memory: wait for others to close
                _log.error("cannot accept connections", why=error.strerror or error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_EXHAUSTED_SECONDS, self._listen, listener)
                return
            accepted.setblocking(False)
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        if len(self._links) >= LARGEST_CONNECTIONS:
            _log.warning("connection refused, too many are open", limit=LARGEST_CONNECTIONS)
            accepted.close()
            return
        opened = self._new_link()
        self._links.add(opened)
        self._is_empty.clear()
        opened.open(accepted)

    def _closed(self, closed: link.Link) -> None:
        self._links.discard(closed)
        if not self._links:
            self._is_empty.set()
