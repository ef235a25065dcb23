"""Exchanges: one request on its connection, and the answer to it as it comes.

    Exchange   bytes go out, and come in when there are some: `receive` waits for nothing if the
               connection does not
    Answer     the same for who waits: the head, then the body piece by piece

A connection that its other side closed while it was idle is of no use to a request, which nobody
has seen then: that is `Stale`, and the request may be sent again. When a body has ended, its
connection is given back to the `Keeper`, who has those that are open.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cri_proxy import errors
from cri_proxy.store.http.incoming import Incoming
from cri_proxy.store.http.messages import Broken, Origin

_RECEIVED_BYTES: Final = 64 * 1024
_SKIPPED_BYTES: Final = 64 * 1024
STALE: Final = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What sending and receiving raises on a connection that the other side has closed."""


class Passing(errors.SourceUnreachable):
    """No answer now, perhaps one in a moment; `pause` is the seconds that the server asks for."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Stale(Broken):
    """The other side had closed the connection while it was idle: nobody has seen the request."""


class Head(Protocol):
    """The head of an answer; `headers` have names in lower case."""

    @property
    def status(self) -> int:
        """The code."""
        ...

    @property
    def reason(self) -> str | None:
        """What the site says beside it."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        ...


class Response(Head, Protocol):
    """An answer, its head read and its body not."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end; raises Broken, OSError, HTTPError."""
        ...

    def close(self) -> None:
        """Be done with it: a connection whose body has not been read is closed."""
        ...


class Keeper(Protocol):
    """Who keeps connections open between requests, and opens others."""

    def give(self, origin: Origin, given: socket.socket) -> None:
        """Keep a connection on which nothing is under way."""
        ...

    def note(self, origin: Origin, seconds: float) -> None:
        """Learn how long an answer took."""
        ...

    def reopen(self, origin: Origin) -> socket.socket:
        """Return a new connection in place of one that the other side has closed."""
        ...


class Exchange:
    """One request on its connection, and the answer to it as it comes; of one thread.

    When the body has ended, the connection is given back. `since` is when something came last.
    """

    __slots__ = (
        "_incoming",
        "_is_new",
        "_keeper",
        "_origin",
        "_request",
        "_sent_at",
        "_socket",
        "since",
    )

    def __init__(
        self,
        keeper: Keeper,
        origin: Origin,
        taken: socket.socket,
        request: bytes,
        *,
        is_new: bool = False,
    ) -> None:
        self._keeper = keeper
        self._origin = origin
        self._socket: socket.socket | None = taken
        self._request = request
        self._is_new = is_new
        self._incoming = Incoming()
        self._sent_at = self.since = time.monotonic()

    def send(self) -> None:
        """Send the request."""
        assert self._socket is not None
        self._socket.sendall(self._request)

    def fileno(self) -> int:
        """Return what can be polled: readable when there is something of an answer."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def status(self) -> int:
        """The code; 0 until the head has come."""
        return self._incoming.status

    @property
    def reason(self) -> str:
        """What the site says beside it."""
        return self._incoming.reason

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names in lower case."""
        return self._incoming.headers

    @property
    def is_over(self) -> bool:
        """Whether all of the body has been received, or nobody wants it any more."""
        return self._socket is None

    @property
    def is_pending(self) -> bool:
        """Whether more has come, although a poll would not tell."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def is_answering(self, seconds: float) -> bool:
        """Whether something of an answer comes within so many seconds."""
        return bool(readable_of((self,), seconds))

    def receive(self, size: int = _RECEIVED_BYTES) -> bytes:
        """Return bytes of the body that come next, none if it was a part of the head, or the end.

        Raises Stale, Broken, or OSError: BlockingIOError if nothing has come, on a connection that
        waits for nothing.
        """
        assert self._socket is not None
        has_head = self._incoming.status
        try:
            data = self._socket.recv(size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except STALE:
            if self._is_new or has_head:
                raise
            raise Stale from None
        if data:
            self._is_new = True  # it was open
            self.since = time.monotonic()
            body = self._incoming.take(data)
        else:
            if not self._is_new:
                raise Stale
            self._incoming.end()
            body = b""
        if not has_head and self._incoming.status:
            self._keeper.note(self._origin, self.since - self._sent_at)
        if self._incoming.is_over:
            self._finish()
        return body

    def renew(self) -> None:
        """Send the request on a new connection, in place of one that was closed while idle."""
        self.close()
        self._socket, self._is_new = self._keeper.reopen(self._origin), True
        self.send()

    def close(self) -> None:
        """Give it up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _finish(self) -> None:
        """Give the connection back, or close it where it cannot be used again."""
        assert self._socket is not None
        if self._incoming.is_kept:
            self._keeper.give(self._origin, self._socket)
        else:
            self._socket.close()
        self._socket = None


class Answer:
    """The answer of an exchange, whose body is read piece by piece."""

    def __init__(self, exchange: Exchange) -> None:
        """Wait for the head; raises Broken or OSError."""
        self._exchange = exchange
        self._body = b""
        try:
            while not exchange.status:
                try:
                    self._body = exchange.receive()
                except Stale:
                    exchange.renew()
        except BaseException:
            exchange.close()
            raise
        self.status, self.reason, self.headers = exchange.status, exchange.reason, exchange.headers

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        while not self._body and not self._exchange.is_over:
            self._body = self._exchange.receive(size)
        piece, self._body = self._body[:size], self._body[size:]
        return piece

    def skip(self) -> None:
        """Be done with a body that nobody wants: its connection stays if it is small."""
        with contextlib.suppress(OSError, Broken):
            left = _SKIPPED_BYTES
            while left > 0 and (piece := self.read(left)):
                left -= len(piece)
        self.close()

    def close(self) -> None:
        """Close the connection, unless it has been given back."""
        self._exchange.close()


def readable_of(exchanges: Sequence[Exchange], seconds: float) -> list[Exchange]:
    """Return those of which something can be read, when there is one or the time is over."""
    poll = select.poll()
    for each in exchanges:
        poll.register(each.fileno(), select.POLLIN)
    found = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
    return [each for each in exchanges if each.fileno() in found]


def text_of(error: Exception) -> str:
    """Return what an operator should read of a connection's failure."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error) or type(error).__name__
