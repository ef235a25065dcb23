"""The table of streams forwarded to upstream, and the limits of which streams are still accepted.

`downstream` adds a stream here when it forwards it to upstream. The end of each direction is
recorded, and with the second one the stream is removed. Interposed streams are not in this table
but in `requestflow`, although both count for the highest stream seen: ids rise across both. A
GOAWAY, upstream's or our own, limits the streams that are still accepted; the limit never rises.

The method decides where a stream goes: `method_matcher` makes what `downstream` recognizes it by.
If calls are counted, they begin and end along with their streams (see `counting`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cri_proxy.router import counting, headers

LARGEST_STREAMS: Final = 1 << 16
"""Open streams of one connection."""

# The state of an open stream is the sum of these.
REQUEST_ENDED: Final = 1
RESPONSE_ENDED: Final = 2
ENDLESS: Final = 4

_ENDED: Final = REQUEST_ENDED | RESPONSE_ENDED


class MethodKind(IntEnum):
    """The kinds of methods that are not simply forwarded."""

    INTERPOSED = 1
    ENDLESS = 2


def method_matcher(interposed: frozenset[str], endless: frozenset[str]) -> headers.MethodMatcher:
    """Return the matcher for the paths of methods, `/package.Service/Method`."""
    kinds = dict.fromkeys(endless, MethodKind.ENDLESS)
    return headers.MethodMatcher(kinds | dict.fromkeys(interposed, MethodKind.INTERPOSED))


@dataclass(slots=True, eq=False)
class Streams:
    """The streams of one connection that upstream has, and the limits of all of them."""

    calls: counting.Calls | None
    """Counts the calls, if they are counted."""
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
        """Add a stream of upstream, and count its call by the block of the request."""
        self.highest_upstream = stream
        self.open[stream] = state
        if self.calls is not None:
            self.calls.begin(stream, block)

    def half_close(self, stream: int, half: int) -> None:
        """Record the end of one direction of a stream."""
        state = self.open.get(stream)
        if state is not None:
            self.open[stream] = state | half
            if (state | half) & _ENDED == _ENDED:
                del self.open[stream]

    def cancel(self, stream: int) -> None:
        """Remove a stream that downstream has reset."""
        self.open.pop(stream, None)
        if self.calls is not None:
            self.calls.end(stream, counting.CANCELLED)

    def reset(self, stream: int, code: int) -> None:
        """Remove a stream that upstream has reset or never accepted."""
        self.open.pop(stream, None)
        if self.calls is not None:
            self.calls.reset(stream, code)

    def end_all(self, status: str) -> None:
        """Count the calls of all streams, which end with their connection."""
        if self.calls is not None:
            self.calls.end_all(status)

    def limit(self, last: int) -> int:
        """Accept no stream after `last`, nor after an earlier limit; return what applies now."""
        self.last = last if self.last is None else min(self.last, last)
        return self.last

    @property
    def is_idle(self) -> bool:
        """No stream is open but endless ones."""
        return all(state & ENDLESS for state in self.open.values())
