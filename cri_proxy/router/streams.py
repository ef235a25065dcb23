"""The table of streams forwarded to upstream, and the limits of which streams are still accepted.

A stream is removed with the end of its second direction. Interposed streams are not in this table
but in `requestflow`, although both count for the highest stream seen: ids rise across both. A
GOAWAY, upstream's or our own, limits the streams that are still accepted; the limit never rises.

If calls are counted, they begin and end along with their streams (see `counting`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cri_proxy.router import counting

LARGEST_STREAMS: Final = 1 << 16
"""Open streams of one connection."""

# The state of an open stream is the sum of these.
REQUEST_ENDED: Final = 1
RESPONSE_ENDED: Final = 2
ENDLESS: Final = 4

_ENDED: Final = REQUEST_ENDED | RESPONSE_ENDED


@dataclass(slots=True, eq=False)
class Streams:
    """The streams of one connection that upstream has, and the limits of all of them."""

    table: counting.Table | None
    """Counts the calls, if they are counted."""
    methods: dict[int, str] = field(default_factory=dict)
    """The method of each open call that is counted."""
    open: dict[int, int] = field(default_factory=dict)
    """The state of each open stream."""
    highest: int = 0
    """The last stream that downstream opened, forwarded or interposed."""
    highest_upstream: int = 0
    """The last stream that was forwarded to upstream."""
    last: int | None = None
    """The last stream that is accepted, as announced to downstream in a GOAWAY."""
    is_draining: bool = False
    """Downstream has been asked to open no more streams."""
    is_last_announced: bool = False
    """The final GOAWAY has been sent; the connection ends when all streams have."""

    def begin(self, stream: int, state: int, block: bytes) -> None:
        """Add a stream of upstream; its call is counted by the block of the request."""
        self.highest_upstream = stream
        self.open[stream] = state
        if self.table is not None:
            self.methods[stream] = self.table.method_of(block)

    def half_close(self, stream: int, half: int) -> None:
        """Record the end of one direction of a stream."""
        state = self.open.get(stream)
        if state is not None:
            self.open[stream] = state | half
            if (state | half) & _ENDED == _ENDED:
                del self.open[stream]

    def answer(self, stream: int, block: bytes) -> None:
        """Count a call by the header block that ends its response."""
        method = self.methods.pop(stream, None)
        if method is not None and self.table is not None:
            self.table.count(method, self.table.status_of(block))

    def cancel(self, stream: int) -> None:
        """Remove a stream that downstream has reset."""
        self.open.pop(stream, None)
        self._count(stream, counting.CANCELLED)

    def reset(self, stream: int, code: int) -> None:
        """Remove a stream that upstream has reset or never accepted."""
        self.open.pop(stream, None)
        self._count(stream, counting.RESETS.get(code, "INTERNAL"))

    def end_all(self, status: str) -> None:
        """Count the calls of all streams, which end with their connection."""
        for stream in tuple(self.methods):
            self._count(stream, status)

    def _count(self, stream: int, status: str) -> None:
        method = self.methods.pop(stream, None)
        if method is not None and self.table is not None:
            self.table.count(method, status)

    def limit(self, last: int) -> int:
        """Accept no stream after `last`, nor after an earlier limit; return what applies now."""
        self.last = last if self.last is None else min(self.last, last)
        return self.last

    @property
    def is_idle(self) -> bool:
        """No stream is open but endless ones."""
        return all(state & ENDLESS for state in self.open.values())
