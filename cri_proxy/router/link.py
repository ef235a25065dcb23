"""One connection of kubelet's on the event loop: three wires around a `Connection`.

A `Link` is made for every connection that downstream opens. It connects upstream first and reads
nothing from downstream before: if the runtime is not there, downstream's connection is closed, as
the runtime's own absence would look. Whatever arrives goes into the core; what the core has to say
is written at once. A wire whose buffer is full stops the other sides from being read, as the core
says; a wire that breaks ends all three, save the interposer's, whose calls are answered for it.
All ends are the same end: write what is to be written, close, and after a grace, abort.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cri_proxy.router import counting, headers
from cri_proxy.router.connection import Connection, Side
from cri_proxy.router.wire import Wire

CONNECT_SECONDS: Final = 5.0
"""A side has that long to take a connection; it is busy, or it would refuse at once."""
PREFACE_SECONDS: Final = 20.0
"""Downstream has that long to say that it speaks HTTP/2."""
FAREWELL_SECONDS: Final = 5.0
"""A side has that long to read what was written to it before the end."""

_RETRY_SECONDS: Final = 0.005
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
        on_close: Callable[[Link], None],
    ) -> None:
        self.core = Connection(needles, table)
        self._paths = {Side.UPSTREAM: upstream, Side.INTERPOSER: interposer}
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._wires: list[Wire | None] = [None, None, None]
        self._connecting: dict[Side, asyncio.Task[None]] = {}
        self._preface_timer: asyncio.TimerHandle | None = None
        self._farewell_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def open(self, accepted: socket.socket) -> None:
        """Take downstream's socket, and connect upstream."""
        self._put(Side.DOWNSTREAM, accepted)
        self._preface_timer = self._loop.call_later(PREFACE_SECONDS, self._expect_preface)
        self._connect(Side.UPSTREAM)

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
        for wire in self._wires:
            if wire is not None:
                wire.abort()

    # What the wires tell

    def lost(self, side: int, wire: Wire, error: OSError | None) -> None:
        """Take note that a wire is closed, by whomever."""
        if self._wires[side] is not wire:
            return
        self._wires[side] = None
        if side == Side.INTERPOSER:
            self.core.interposer_lost("the interposer closed the connection")
        elif side == Side.DOWNSTREAM:
            self.core.downstream_lost()
        else:
            if not self.core.is_over:
                _log.debug("the runtime closed a connection error=%s", error)
            self.core.upstream_lost()
        self.core.needs_attention = True
        self.settle()

    def paused(self, side: int) -> None:
        """Take note that a wire has too much to write."""
        self.core.pause(Side(side))
        self._regulate()

    def resumed(self, side: int) -> None:
        """Take note that a wire has written enough."""
        self.core.resume(Side(side))
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

    def _receive(self, receive: Callable[[bytes], None], data: bytes) -> None:
        receive(data)
        self.settle()

    def _attend(self) -> None:
        core = self.core
        if core.is_over:
            self._end()
            return
        if core.has_interposer:
            if core.wants_interposer and self._wires[Side.INTERPOSER] is None:
                self._connect(Side.INTERPOSER)
        elif (leaving := self._wires[Side.INTERPOSER]) is not None:
            self._wires[Side.INTERPOSER] = None
            leaving.abort()
        self._regulate()

    def _write(self, side: int, pieces: list[bytes]) -> None:
        wire = self._wires[side]
        if wire is not None:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            wire.write(data)
        elif self.core.is_over:
            pieces.clear()

    def _regulate(self) -> None:
        for side in Side:
            wire = self._wires[side]
            if wire is None:
                continue
            is_served = side is not Side.DOWNSTREAM or self._wires[Side.UPSTREAM] is not None
            if is_served and self.core.may_read(side):
                wire.read()
            else:
                wire.pause()

    def _put(self, side: Side, connected: socket.socket) -> None:
        receive = {
            Side.DOWNSTREAM: self.core.receive_downstream,
            Side.UPSTREAM: self.core.receive_upstream,
            Side.INTERPOSER: self.core.receive_interposer,
        }[side]
        self._wires[side] = Wire(connected, side, self, functools.partial(self._receive, receive))

    def _connect(self, side: Side) -> None:
        if side not in self._connecting:
            self._connecting[side] = self._loop.create_task(self._connected(side))

    async def _connected(self, side: Side) -> None:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _reach(connecting, self._paths[side])
        except OSError as error:  # of which TimeoutError is one
            connecting.close()
            del self._connecting[side]
            path = self._paths[side]
            if side is Side.INTERPOSER:
                _log.warning("the interposer cannot be reached path=%s error=%s", path, error)
                self.core.interposer_lost("the interposer cannot be reached")
            else:
                _log.info("the runtime cannot be reached path=%s error=%s", path, error)
                self.core.upstream_lost()
            self.settle()
            return
        except BaseException:
            connecting.close()
            raise
        del self._connecting[side]
        self._put(side, connecting)
        if side is Side.INTERPOSER:
            self.core.interposer_opened()
        self.core.needs_attention = True
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
        for wire in self._wires:
            if wire is not None:
                wire.close()
        if any(self._wires):
            if self._farewell_timer is None:
                self._farewell_timer = self._loop.call_later(FAREWELL_SECONDS, self.abort)
        elif not self._is_closed:
            self._is_closed = True
            if self._farewell_timer is not None:
                self._farewell_timer.cancel()
            self._on_close(self)


async def _reach(connecting: socket.socket, place: Path) -> None:
    """Connect; a unix socket's answer is there at once, unless too many others wait for theirs."""
    while True:
        try:
            connecting.connect(os.fsencode(place))
        except BlockingIOError:
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return
