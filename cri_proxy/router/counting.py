"""Call counts: the router's calls by method and status, without decoding their headers.

A `Table` has the literals to look for, and is made once; `streams` holds the method of each open
stream until its end shows the status. Both are found as bytes, in either of their two encodings
(see `headers`), in about a microsecond a call.

A call without a status is counted by how it ended, with gRPC's name for that. Interposed calls are
counted by the interposer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from cri_proxy.router import frames, headers

OTHER: Final = "_OTHER"
"""Stands for every method that is not in the table, since clients choose method names."""
UNKNOWN: Final = "UNKNOWN"
CANCELLED: Final = "CANCELLED"
UNAVAILABLE: Final = "UNAVAILABLE"
STATUSES: Final = (
    "OK",
    CANCELLED,
    UNKNOWN,
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    UNAVAILABLE,
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC's statuses: the name of each, by its number."""

RESETS: Final = {
    frames.REFUSED_STREAM: UNAVAILABLE,
    frames.CANCEL: CANCELLED,
    frames.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
}
"""The status that gRPC derives from a RST_STREAM code; INTERNAL for all others."""

Count = Callable[[str, str], None]
"""Counts a call by its method, without the first slash, and the name of its status."""


class Table:
    """The methods that are counted by name, and the function that counts."""

    __slots__ = ("_methods", "_names", "_statuses", "count")

    def __init__(self, paths: Iterable[str], count: Count) -> None:
        self.count = count
        self._methods = {
            literal: path[1:] for path in paths for literal in headers.literals(path.encode())
        }
        self._names = tuple(headers.literals(b"grpc-status"))
        self._statuses = {
            literal: name
            for number, name in enumerate(STATUSES)
            for literal in headers.literals(str(number).encode())
        }

    def method_of(self, block: bytes) -> str:
        """Return the method of a request's header block that needs no header table."""
        path = headers.path_of(block)
        return OTHER if path is None else self._methods.get(path, OTHER)

    def status_of(self, block: bytes) -> str:
        """Return the name of the status in the header block that ends a response."""
        for name in self._names:
            place = block.find(name)
            if place >= 0:
                # The value as a string literal of RFC 7541: one byte with the Huffman bit (0x80)
                # and the length, which is below 127 for any status, then that many bytes.
                place += len(name)
                length = block[place : place + 1]
                stop = place + 1 + (length[0] & 0x7F if length else 0)
                return self._statuses.get(block[place:stop], UNKNOWN)
        return UNKNOWN
