"""The table of streams: which of downstream's are open at upstream, and which may still come.

`downstream` enters a stream here that it passes upstream; each direction that ends is noted, and
with the second the stream is forgotten. Streams that are lent are not in this table but in that of
`lending`, though both count as seen: ids rise, whoever a stream belongs to. A GOAWAY, upstream's or
our own, bounds what may still come; a bound is never raised again.

Whose a stream is, its method decides: `needles_of` makes what `downstream` finds it by. If calls
are counted, they begin and end along with their streams (see `counting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from cri_proxy.router import counting, headers

LARGEST_STREAMS: Final = 1 << 16
"""Open streams of one connection."""

REQUEST_OVER: Final = 1
ANSWER_OVER: Final = 2
ENDLESS: Final = 4
"""What is known of an open stream, added up."""

_OVER: Final = REQUEST_OVER | ANSWER_OVER


class MethodKind(IntEnum):
    """What the methods that are looked for stand for."""

    INTERPOSED = 1
    ENDLESS = 2


def needles_of(interposed: frozenset[str], endless: frozenset[str]) -> headers.Needles:
    """Return the needles for the paths of methods, `/package.Service/Method`."""
    meanings: Mapping[str, int] = {
        **dict.fromkeys(endless, MethodKind.ENDLESS),
        **dict.fromkeys(interposed, MethodKind.INTERPOSED),
    }
    return headers.Needles(meanings)


class Streams:
    """The streams of one connection that are upstream's, and the bounds of all of them."""

    __slots__ = (
        "calls",
        "highest",
        "highest_upstream",
        "is_draining",
        "is_last_told",
        "last",
        "open",
    )

    def __init__(self, calls: counting.Calls | None) -> None:
        self.calls = calls
        """Where calls are counted, if they are."""
        self.open: dict[int, int] = {}
        """The open streams, and of each what is known."""
        self.highest = 0
        """The last stream that downstream has opened, whosever it is."""
        self.highest_upstream = 0
        self.last: int | None = None
        """The last stream that is taken, as a GOAWAY has told downstream."""
        self.is_draining = False
        """Downstream has been asked to open no more."""
        self.is_last_told = False
        """It has heard so, and knows the last that is taken: the end is when all are over."""

    def begin(self, stream: int, state: int, block: bytes) -> None:
        """Take note of a stream that is upstream's, and of its request's block."""
        self.highest_upstream = stream
        self.open[stream] = state
        if self.calls is not None:
            self.calls.begin(stream, block)

    def half_over(self, stream: int, half: int) -> None:
        """Take note that a stream is over in one direction."""
        state = self.open.get(stream)
        if state is None:
            return
        state |= half
        if state & _OVER == _OVER:
            del self.open[stream]
        else:
            self.open[stream] = state

    def cancel(self, stream: int) -> None:
        """Take note that downstream has reset a stream."""
        self.open.pop(stream, None)
        if self.calls is not None:
            self.calls.end(stream, counting.CANCELLED)

    def reset(self, stream: int, code: int) -> None:
        """Take note that upstream has reset a stream, or was found to have never taken it."""
        self.open.pop(stream, None)
        if self.calls is not None:
            self.calls.reset(stream, code)

    def end_all(self, status: str) -> None:
        """Count the calls of all streams, which end with their connection."""
        if self.calls is not None:
            self.calls.end_all(status)

    def bound(self, last: int) -> int:
        """Take no stream beyond `last`, nor beyond an earlier bound; return what holds now."""
        self.last = last if self.last is None else min(self.last, last)
        return self.last

    @property
    def is_idle(self) -> bool:
        """No stream is open but endless ones."""
        return all(state & ENDLESS for state in self.open.values())
