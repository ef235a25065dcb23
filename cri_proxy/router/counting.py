"""Counting: the calls that pass, by method and status, without decoding their headers.

A `Table` knows the literals that it looks for, and is made once; the `Calls` of a connection keep
the method of each open stream until its end says the status. The method stands behind the few
fields that precede `:path` in a request's block; the status behind its name in the block that ends
an answer. Both are found as bytes, in either of their two encodings (see `headers`), for a
microsecond a call.

A call without a status is counted by how it ended, in the words that gRPC has for it: CANCELLED if
downstream gave up, UNAVAILABLE if upstream went away. Lent calls are the interposer's to count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from cri_proxy.router import frames, headers

OTHER: Final = "_OTHER"
"""Any method that is not in the table: names of methods come from outside."""
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
"""Names of the statuses of gRPC by number."""

_RESETS: Final = {
    frames.REFUSED_STREAM: UNAVAILABLE,
    frames.CANCEL: CANCELLED,
    frames.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
}
"""What gRPC makes of a RST_STREAM code, INTERNAL of all others."""

Count = Callable[[str, str], None]
"""Counts a call, by its method (without the first slash) and the name of its status."""


class Table:
    """The methods that are counted by name, and where the counts go."""

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
        """Return the method of a request's block that stands alone."""
        path = headers.path_of(block)
        return OTHER if path is None else self._methods.get(path, OTHER)

    def status_of(self, block: bytes) -> str:
        """Return the name of the status in the block that ends an answer."""
        for name in self._names:
            place = block.find(name)
            if place >= 0:
                place += len(name)
                length = block[place : place + 1]
                stop = place + 1 + (length[0] & 0x7F if length else 0)
                return self._statuses.get(block[place:stop], UNKNOWN)
        return UNKNOWN


class Calls:
    """The open calls of one connection."""

    __slots__ = ("_methods", "_table")

    def __init__(self, table: Table) -> None:
        self._table = table
        self._methods: dict[int, str] = {}

    def begin(self, stream: int, block: bytes) -> None:
        """Take note of a call by its request's block."""
        self._methods[stream] = self._table.method_of(block)

    def answer(self, stream: int, block: bytes) -> None:
        """Count a call by the block that ends its answer."""
        method = self._methods.pop(stream, None)
        if method is not None:
            self._table.count(method, self._table.status_of(block))

    def end(self, stream: int, status: str) -> None:
        """Count a call that ends without a status of its own."""
        method = self._methods.pop(stream, None)
        if method is not None:
            self._table.count(method, status)

    def reset(self, stream: int, code: int) -> None:
        """Count a call that upstream has reset."""
        self.end(stream, _RESETS.get(code, "INTERNAL"))

    def end_all(self, status: str) -> None:
        """Count all calls that end with their connection."""
        for stream in tuple(self._methods):
            self.end(stream, status)
