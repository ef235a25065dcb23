"""One connection of kubelet's on the event loop: three transports around a `Connection`.

A `Link` is made for every connection that downstream opens. It connects upstream first and reads
nothing from downstream before: if the runtime is not there, downstream's connection is closed, as
the runtime's own absence would look. Whatever arrives goes into the core; what the core has to say
is written at once. A transport whose buffer is full stops the other sides from being read, as the
core says; a transport that breaks ends all three, save the interposer's, whose calls are answered
for it. All ends are the same end: write what is to be written, close, and after a grace, abort.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from cri_proxy.router import counting, headers
from cri_proxy.router.connection import Connection, Side

BUFFER_BYTES: Final = 256 << 10
"""A transport that has more than that to write stops those who feed it."""
PREFACE_SECONDS: Final = 20.0
"""Downstream has that long to say that it speaks HTTP/2."""
FAREWELL_SECONDS: Final = 5.0
"""A side has that long to read what was written to it before the end."""

_log = logging.getLogger(__name__)


class Link:
    """A connection of downstream's, from its beginning to its end."""

    def __init__(
        self,
        needles: headers.Needles,
        *,
        table: counting.Table | None = None,
        upstream: Path,
        interposer: Path,
        on_open: Callable[[Link], None],
        on_close: Callable[[Link], None],
    ) -> None:
        self.core = Connection(needles, table)
        self._paths = {Side.UPSTREAM: upstream, Side.INTERPOSER: interposer}
        self._on_open = on_open
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._transports: list[asyncio.Transport | None] = [None, None, None]
        self._unread: set[Side] = set()
        self._connecting: dict[Side, asyncio.Task[None]] = {}
        self._preface_timer: asyncio.TimerHandle | None = None
        self._farewell_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def downstream(self) -> asyncio.Protocol:
        """Return the protocol of downstream's transport."""
        return _Protocol(self, Side.DOWNSTREAM)

    def drain(self) -> None:
        """Ask downstream to leave when its calls are over."""
        self.core.drain()
        self.settle()

    def close(self) -> None:
        """End now, with whatever is in flight."""
        self.core.is_over = True
        self.core.needs_attention = True
        self.settle()

    def abort(self) -> None:
        """End now, without writing what is still to be written."""
        self.core.is_over = True
        for transport in self._transports:
            if transport is not None:
                transport.abort()

    # What the protocols tell

    def opened(self, side: Side, transport: asyncio.Transport) -> None:
        """Take a transport that has been connected."""
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._transports[side] = transport
        self._connecting.pop(side, None)
        match side:
            case Side.DOWNSTREAM:
                self._on_open(self)
                transport.pause_reading()
                self._unread.add(side)
                self._connect(Side.UPSTREAM)
                self._preface_timer = self._loop.call_later(PREFACE_SECONDS, self._expect_preface)
            case Side.INTERPOSER:
                self.core.interposer_opened()
        self.core.needs_attention = True
        self.settle()

    def lost(self, side: Side, transport: asyncio.Transport, error: Exception | None) -> None:
        """Take note that a transport is closed, by whomever."""
        if self._transports[side] is not transport:
            return
        self._transports[side] = None
        self._unread.discard(side)
        if side is Side.INTERPOSER:
            self.core.interposer_lost("the interposer closed the connection")
        elif side is Side.DOWNSTREAM:
            self.core.downstream_lost()
        else:
            if not self.core.is_over:
                _log.debug("the runtime closed a connection error=%s", error)
            self.core.upstream_lost()
        self.core.needs_attention = True
        self.settle()

    def paused(self, side: Side) -> None:
        """Take note that a transport has too much to write."""
        self.core.pause(side)
        self._regulate()

    def resumed(self, side: Side) -> None:
        """Take note that a transport has written enough."""
        self.core.resume(side)
        self.core.needs_attention = True
        self.settle()

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

    # What follows from it

    def _attend(self) -> None:
        core = self.core
        if core.is_over:
            self._end()
            return
        if core.has_interposer:
            if core.wants_interposer and self._transports[Side.INTERPOSER] is None:
                self._connect(Side.INTERPOSER)
        elif (leaving := self._transports[Side.INTERPOSER]) is not None:
            self._unread.discard(Side.INTERPOSER)
            self._transports[Side.INTERPOSER] = None
            leaving.abort()
        self._regulate()

    def _write(self, side: int, pieces: list[bytes]) -> None:
        transport = self._transports[side]
        if transport is not None and not transport.is_closing():
            if len(pieces) == 1:
                transport.write(pieces[0])
            else:
                transport.write(b"".join(pieces))
            pieces.clear()
        elif self.core.is_over:
            pieces.clear()

    def _regulate(self) -> None:
        for side in Side:
            transport = self._transports[side]
            if transport is None:
                continue
            may_read = self.core.may_read(side) and (
                side is not Side.DOWNSTREAM or self._transports[Side.UPSTREAM] is not None
            )
            if may_read is (side not in self._unread) or transport.is_closing():
                continue
            if may_read:
                self._unread.discard(side)
                transport.resume_reading()
            else:
                self._unread.add(side)
                transport.pause_reading()

    def _connect(self, side: Side) -> None:
        if side not in self._connecting:
            self._connecting[side] = self._loop.create_task(self._connected(side))

    async def _connected(self, side: Side) -> None:
        path = self._paths[side]
        try:
            await self._loop.create_unix_connection(lambda: _Protocol(self, side), str(path))
        except OSError as error:
            del self._connecting[side]
            if side is Side.INTERPOSER:
                _log.warning("the interposer cannot be reached path=%s error=%s", path, error)
                self.core.interposer_lost("the interposer cannot be reached")
            else:
                _log.info("the runtime cannot be reached path=%s error=%s", path, error)
                self.core.upstream_lost()
            self.settle()

    def _expect_preface(self) -> None:
        if not self.core.has_begun:
            _log.info("a connection is closed: no HTTP/2 preface in %d s", PREFACE_SECONDS)
            self.close()

    def _end(self) -> None:
        if self.core.reason:
            _log.warning("a connection is closed: %s", self.core.reason)
            self.core.reason = ""
        for task in self._connecting.values():
            task.cancel()
        if self._preface_timer is not None:
            self._preface_timer.cancel()
            self._preface_timer = None
        for transport in self._transports:
            if transport is not None and not transport.is_closing():
                transport.close()
        if any(self._transports):
            if self._farewell_timer is None:
                self._farewell_timer = self._loop.call_later(FAREWELL_SECONDS, self.abort)
        elif not self._is_closed:
            self._is_closed = True
            if self._farewell_timer is not None:
                self._farewell_timer.cancel()
            self._on_close(self)


class _Protocol(asyncio.Protocol):
    """The mouth of one side."""

    __slots__ = ("_link", "_receive", "_side", "_transport")

    def __init__(self, link: Link, side: Side) -> None:
        self._link = link
        self._side = side
        self._transport: asyncio.Transport
        self._receive = {
            Side.DOWNSTREAM: link.core.receive_downstream,
            Side.UPSTREAM: link.core.receive_upstream,
            Side.INTERPOSER: link.core.receive_interposer,
        }[side]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._link.opened(self._side, self._transport)

    def data_received(self, data: bytes) -> None:
        self._receive(data)
        self._link.settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(self._side, self._transport, exc)

    def pause_writing(self) -> None:
        self._link.paused(self._side)

    def resume_writing(self) -> None:
        self._link.resumed(self._side)
