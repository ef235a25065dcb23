"""One connection of kubelet and its two counterparts, sans I/O: bytes in, bytes out.

Received bytes go into `receive_downstream`, `receive_upstream` or `receive_interposer`; what is to
be written accumulates in `to_downstream`, `to_upstream` and `to_interposer`, lists that the caller
empties. `downstream`, `upstream` and `interposition` interpret the bytes. This module contains what
concerns all sides: which may be read now, what is due after every event, and how it ends.

No input raises an exception out of this module. A side that breaks the protocol or exceeds a limit
ends the connection with GOAWAY; the interposer only ends its own.
"""

from __future__ import annotations

from enum import IntEnum

from cri_proxy.router import counting, frames, headers
from cri_proxy.router.downstream import Downstream
from cri_proxy.router.frames import Violation
from cri_proxy.router.interposition import Interposition, State
from cri_proxy.router.responseflow import ResponseFlow
from cri_proxy.router.streams import Streams
from cri_proxy.router.upstream import Upstream


class Side(IntEnum):
    """Where bytes come from and go to."""

    DOWNSTREAM = 0
    UPSTREAM = 1
    INTERPOSER = 2


class Connection:
    """The three sides of one connection: what may be read, what is to be written."""

    def __init__(self, matcher: headers.MethodMatcher, table: counting.Table | None = None) -> None:
        self.to_downstream: list[bytes] = []
        self.to_upstream: list[bytes] = []
        self.to_interposer: list[bytes] = []
        self.is_over = False
        """Nothing more will come: write what is to be written, then close all sides."""
        self.needs_attention = False
        """Something other than bytes to write has changed; reset by the caller."""
        self.reason = ""
        """The fault that ended the connection, if it was one."""
        self._paused: set[Side] = set()

        self._streams = Streams(table)
        self._response_flow = ResponseFlow(self.to_downstream)
        self._interposition = Interposition(
            self.to_downstream, self.to_interposer, self._response_flow, on_change=self._changed
        )
        self._request_flow = self._interposition.request_flow
        self._upstream = Upstream(self._streams, self._interposition)
        self._downstream = Downstream(
            matcher, self.to_upstream, self._streams, self._upstream, self._interposition
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of responses that are held until downstream grants room."""
        return sum(len(each.raw) for each in self._response_flow.held)

    @property
    def wants_interposer(self) -> bool:
        """A connection to the interposer is to be opened, then `interposer_opened` or `_lost`."""
        return self._interposition.state is State.WANTED

    @property
    def has_interposer(self) -> bool:
        """A connection to the interposer is wanted or open; otherwise an open one may be closed."""
        return self._interposition.state is not State.ABSENT

    @property
    def has_begun(self) -> bool:
        """Downstream has sent its preface and its SETTINGS."""
        return self._downstream.has_begun

    def may_read(self, side: Side) -> bool:
        """Return whether bytes of the side are wanted now (back-pressure)."""
        if side is not Side.DOWNSTREAM:
            return Side.DOWNSTREAM not in self._paused
        return not (
            Side.UPSTREAM in self._paused
            or Side.INTERPOSER in self._paused
            or self._interposition.state is State.WANTED
            or (self._interposition.has_refused and Side.DOWNSTREAM in self._paused)
        )

    def pause(self, side: Side) -> None:
        """Record that a side does not read what is written to it."""
        self._paused.add(side)
        if side is Side.DOWNSTREAM:
            self._interposition.has_refused = False

    def resume(self, side: Side) -> None:
        """Record that the side reads again."""
        self._paused.discard(side)
        if side is Side.DOWNSTREAM:
            self._pay()

    def receive_downstream(self, data: bytes) -> None:
        """Process bytes from downstream."""
        if self.is_over:
            return
        try:
            self._downstream.receive(data)
            if self._request_flow.owed or self._streams.is_last_announced:
                self._after()
        except Violation as violation:
            self._fail(violation)

    def receive_upstream(self, data: bytes) -> None:
        """Process bytes from upstream."""
        if self.is_over:
            return
        try:
            self._upstream.receive(data)
            if self._request_flow.owed or self._streams.is_last_announced:
                self._after()
        except Violation as violation:
            reason = f"the runtime broke the protocol: {violation.reason}"
            self._fail(Violation(frames.INTERNAL_ERROR, reason))

    def receive_interposer(self, data: bytes) -> None:
        """Process bytes from the interposer."""
        if self.is_over:
            return
        try:
            self._interposition.receive(data)
        except Violation as violation:
            self.interposer_lost(f"the interposer broke the protocol: {violation.reason}")
        self._after()

    def interposer_opened(self) -> None:
        """Record that the connection to the interposer is established."""
        self._interposition.opened()

    def interposer_lost(self, reason: str) -> None:
        """Record that there is no connection to the interposer; its calls fail with `reason`."""
        if self._interposition.state is State.ABSENT:
            return
        self._paused.discard(Side.INTERPOSER)
        self._interposition.lost(reason)
        self._after()

    def upstream_lost(self) -> None:
        """End the connection, because upstream has closed its own."""
        self._streams.end_all(counting.UNAVAILABLE)
        self._finish()

    def downstream_lost(self) -> None:
        """End the connection, because downstream has closed its own."""
        self._streams.end_all(counting.CANCELLED)
        self._finish()

    def drain(self) -> None:
        """Ask downstream to open no more streams; end when all but the endless ones have ended."""
        if self._streams.is_draining or self.is_over:
            return
        if self._upstream.has_settings:
            self._downstream.drain()
        else:
            self._finish()

    def __repr__(self) -> str:
        state = "over" if self.is_over else "draining" if self._streams.is_draining else "open"
        upstream, interposed = len(self._streams.open), len(self._interposition.calls)
        return f"<Connection {state}, {upstream} upstream, {interposed} interposed>"

    # Consequences for all sides

    def _changed(self) -> None:
        self.needs_attention = True

    def _finish(self) -> None:
        self.is_over = True
        self.needs_attention = True

    def _pay(self) -> None:
        if Side.DOWNSTREAM not in self._paused and (owed := self._request_flow.pay()):
            self.to_downstream.append(frames.window_update(0, owed))

    def _after(self) -> None:
        """Do what is due after any event."""
        self._pay()
        if (
            self._streams.is_last_announced
            and self._streams.is_idle
            and not self._interposition.calls
            and not self._response_flow.held
        ):
            self._finish()

    def _fail(self, violation: Violation) -> None:
        self.reason = violation.reason
        self.to_downstream.append(
            frames.goaway(self._streams.highest, violation.code, violation.reason)
        )
        self._finish()
