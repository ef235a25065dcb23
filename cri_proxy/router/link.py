"""One connection of kubelet on the event loop: three socket transports around a `Connection`.

A `Link` connects to upstream first and reads nothing from downstream before: if the runtime is not
running, downstream's connection is closed, as it would look without a proxy. While the buffer of a
transport is full, the other sides are not read, as the core decides. When a transport is lost, all
three are closed, except that the calls of a lost interposer fail instead. Every end is the same:
write what is to be written, close, and abort after a grace.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cri_proxy.router import counting, headers
from cri_proxy.router.connection import Connection, Side
from cri_proxy.router.sockettransport import SocketTransport
from cri_proxy.telemetry import logs

CONNECT_SECONDS: Final = 5.0
"""Time for a side to accept a connection; it is busy, or it would refuse at once."""
PREFACE_SECONDS: Final = 20.0
"""Time for downstream to send the HTTP/2 preface and SETTINGS."""
CLOSE_SECONDS: Final = 5.0
"""Time for a side to read what is still buffered for it at the end."""

_RETRY_SECONDS: Final = 0.005
_log = logs.of(__name__)


class Link:
    """A connection of downstream, from its beginning to its end."""

    def __init__(
        self,
        matcher: headers.MethodMatcher,
        *,
        table: counting.Table | None = None,
        upstream: Path,
        interposer: Path,
        on_close: Callable[[Link], None],
    ) -> None:
        self.core = Connection(matcher, table)
        self._paths = {Side.UPSTREAM: upstream, Side.INTERPOSER: interposer}
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._transports: list[SocketTransport | None] = [None, None, None]
        self._connecting: dict[Side, asyncio.Task[None]] = {}
        self._preface_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def open(self, accepted: socket.socket) -> None:
        """Take over downstream's socket, and connect to upstream."""
        self._put(Side.DOWNSTREAM, accepted)
        self._preface_timer = self._loop.call_later(PREFACE_SECONDS, self._expect_preface)
        self._connect(Side.UPSTREAM)

    def drain(self) -> None:
        """Ask downstream to close the connection when its calls have ended."""
        self.core.drain()
        self.settle()

    def close(self) -> None:
        """Close now, with calls in flight."""
        self.core.is_over = True
        self.core.needs_attention = True
        self.settle()

    def abort(self) -> None:
        """Close now, without writing what is buffered."""
        self.core.is_over = True
        for transport in self._transports:
            if transport is not None:
                transport.abort()

    def settle(self) -> None:
        """Do what the core asks for after an event."""
        core = self.core
        if core.to_downstream:
            self._write(0, core.to_downstream)
        if core.to_upstream:
            self._write(1, core.to_upstream)
        if core.to_interposer and not core.wants_interposer:
            self._write(2, core.to_interposer)
        if core.needs_attention:
            core.needs_attention = False
            self._attend()

    # Events of the transports

    def _lost(self, side: Side, transport: SocketTransport, error: OSError | None) -> None:
        """Handle the end of a transport, closed by either end."""
        if self._transports[side] is not transport:
            return
        self._transports[side] = None
        match side:
            case Side.INTERPOSER:
                self.core.interposer_lost("the interposer closed the connection")
            case Side.DOWNSTREAM:
                self.core.downstream_lost()
            case Side.UPSTREAM:
                if not self.core.is_over:
                    _log.debug("runtime closed the connection", why=error)
                self.core.upstream_lost()
        self.core.needs_attention = True
        self.settle()

    def _pause(self, side: Side) -> None:
        self.core.pause(side)
        self._regulate()

    def _resume(self, side: Side) -> None:
        self.core.resume(side)
        self.core.needs_attention = True
        self.settle()

    # Consequences

    def _attend(self) -> None:
        core = self.core
        if core.is_over:
            self._end()
            return
        if core.has_interposer:
            if core.wants_interposer and self._transports[Side.INTERPOSER] is None:
                self._connect(Side.INTERPOSER)
        elif (leaving := self._transports[Side.INTERPOSER]) is not None:
            self._transports[Side.INTERPOSER] = None
            leaving.abort()
        self._regulate()

    def _write(self, side: int, pieces: list[bytes]) -> None:
        transport = self._transports[side]
        if transport is not None:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            transport.write(data)
        elif self.core.is_over:
            pieces.clear()

    def _regulate(self) -> None:
        for side, transport in zip(Side, self._transports):
            if transport is None:
                continue
            is_served = side is not Side.DOWNSTREAM or self._transports[Side.UPSTREAM] is not None
            if is_served and self.core.may_read(side):
                transport.read()
            else:
                transport.pause()

    def _put(self, side: Side, connected: socket.socket) -> None:
        receive = {
            Side.DOWNSTREAM: self.core.receive_downstream,
            Side.UPSTREAM: self.core.receive_upstream,
            Side.INTERPOSER: self.core.receive_interposer,
        }[side]

        def received(data: bytes) -> None:
            receive(data)
            self.settle()

        self._transports[side] = SocketTransport(
            connected,
            received,
            on_full=functools.partial(self._pause, side),
            on_room=functools.partial(self._resume, side),
            on_lost=functools.partial(self._lost, side),
        )

    def _connect(self, side: Side) -> None:
        if side not in self._connecting:
            self._connecting[side] = self._loop.create_task(self._connected(side))

    async def _connected(self, side: Side) -> None:
        path = self._paths[side]
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _reach(connecting, path)
        except BaseException as error:
            connecting.close()
            if not isinstance(error, OSError):  # TimeoutError is one
                raise
            if side is Side.INTERPOSER:
                _log.warning("cannot connect to the interposer", socket=path, why=error)
                self.core.interposer_lost("the interposer cannot be reached")
            else:
                _log.info("cannot connect to the runtime", socket=path, why=error)
                self.core.upstream_lost()
        else:
            self._put(side, connecting)
            if side is Side.INTERPOSER:
                self.core.interposer_opened()
            self.core.needs_attention = True
        del self._connecting[side]
        self.settle()

    def _expect_preface(self) -> None:
        if not self.core.has_begun:
            _log.info("connection closed, no HTTP/2 preface received", seconds=PREFACE_SECONDS)
            self.close()

    def _end(self) -> None:
        if self.core.reason:
            _log.warning("connection closed", why=self.core.reason)
            self.core.reason = ""
        for task in self._connecting.values():
            task.cancel()
        if self._preface_timer is not None:
            self._preface_timer.cancel()
        for transport in self._transports:
            if transport is not None:
                transport.close()
        if any(self._transports):
            if self._close_timer is None:
                self._close_timer = self._loop.call_later(CLOSE_SECONDS, self.abort)
        elif not self._is_closed:
            self._is_closed = True
            if self._close_timer is not None:
                self._close_timer.cancel()
            self._on_close(self)


async def _reach(connecting: socket.socket, place: Path) -> None:
    """Connect to a unix socket: that never blocks, but fails while the listener's queue is full."""
    while True:
        try:
            connecting.connect(os.fsencode(place))
        except BlockingIOError:
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return
