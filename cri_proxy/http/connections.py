"""One HTTP/1.1 connection, and the exchange that is under way on it.

    ClientConnection  the protocol object that the event loop feeds with bytes
    Exchange          one request and its response as it arrives
    BodyBuffer        a body that is collected in memory, up to a limit
    BodyStream        a body that another thread reads while it arrives; the connection pauses while
                      enough of it is waiting

Everything but `BodyStream.read` runs in the event loop's thread. Bytes arrive in one place,
`ClientConnection.data_received`, and `Exchange.since` is when they last did: limits on rates belong
there.
"""

from __future__ import annotations

import asyncio
import collections
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from cri_proxy.http.failures import Broken, RequestFailed, Stale, TooLarge, text_of
from cri_proxy.http.incoming import Incoming

_HELD_BYTES: Final = 2 * 1024 * 1024
_RESUMED_BYTES: Final = 1024 * 1024
_SKIPPED_BYTES: Final = 64 * 1024
"""Longest body that is received although no one wants it, so that its connection can be kept."""


class BodyBuffer:
    """A body that is collected in memory."""

    __slots__ = ("_left", "_limit", "_pieces")
    is_whole = True

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._pieces: list[bytes] = []

    def add(self, exchange: Exchange, data: bytes) -> None:
        """Collect; raise TooLarge beyond the limit."""
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"is larger than {self._limit} bytes")
        self._pieces.append(data)

    def end(self, error: RequestFailed | None) -> None:
        """Do nothing: the exchange has the outcome."""

    def data(self) -> bytes:
        """Return all of it."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class BodyStream:
    """A body on its way from the event loop's thread to the one that reads it.

    `awaited_since` is when that one began to wait, infinity if it does not.
    """

    is_whole = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._pieces: collections.deque[bytes] = collections.deque()
        self._size = 0
        self._is_over = False
        self._error: RequestFailed | None = None
        self._paused: Exchange | None = None
        self._is_skipped = False
        self.awaited_since = math.inf

    def add(self, exchange: Exchange, data: bytes) -> None:
        """Hand bytes to the reader; pause the connection if the reader has plenty."""
        with self._changed:
            if self._is_skipped:
                self._size += len(data)
                if self._size > _SKIPPED_BYTES:
                    exchange.close()
                return
            self._pieces.append(data)
            self._size += len(data)
            if self._size >= _HELD_BYTES and self._paused is None:
                self._paused = exchange
                exchange.pause()
            self._changed.notify()

    def end(self, error: RequestFailed | None) -> None:
        """Hand the end to the reader."""
        with self._changed:
            self._is_over, self._error, self._paused = True, error, None
            self._changed.notify()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none only at the end; raise RequestFailed."""
        with self._changed:
            while not self._pieces:
                if self._error is not None:
                    raise self._error
                if self._is_over:
                    return b""
                self.awaited_since = time.monotonic()
                self._changed.wait()
                self.awaited_since = math.inf
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            self._size -= len(piece)
            if self._size <= _RESUMED_BYTES and self._paused is not None:
                self._loop.call_soon_threadsafe(self._paused.resume)
                self._paused = None
        return piece

    def skip(self) -> None:
        """Drop what has arrived and what still will."""
        with self._changed:
            self._is_skipped = True
            self._pieces.clear()
            self._size = 0
            self.awaited_since = 0.0  # the rest must not keep us waiting, either


Body = BodyBuffer | BodyStream
"""Where the bytes of a body go; `is_whole` if the response is of no use before its end."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its response as it arrives.

    `outcome` becomes True when the response is usable, False when it is late, or has the failure.
    `since` is when bytes arrived last; `late_seconds` of silence make the response late.
    """

    body: Body
    _loop: asyncio.AbstractEventLoop
    incoming: Incoming = field(default_factory=Incoming)
    connection: ClientConnection | None = None
    outcome: asyncio.Future[bool] = field(init=False)
    sent_at: float = field(init=False)
    since: float = field(init=False)
    late_seconds: float = math.inf
    is_paused: bool = False
    is_untouched: bool = True

    def __post_init__(self) -> None:
        self.outcome = self._loop.create_future()
        self.sent_at = self.since = self._loop.time()

    def take(self, data: bytes) -> None:
        """Take bytes of the response; raise RequestFailed."""
        incoming = self.incoming
        self.is_untouched = False
        self.since = self._loop.time()
        if piece := incoming.take(data):
            self.body.add(self, piece)
        if incoming.status and not self.body.is_whole and not self.outcome.done():
            self.outcome.set_result(True)

    def end(self, error: RequestFailed | None) -> None:
        """End, with the response complete or with a failure."""
        self.connection = None
        self.body.end(error)
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(True)
        else:
            self.outcome.set_exception(error)

    def silent_since(self) -> float:
        """Return since when the server keeps a reader waiting; infinity if there is none.

        A response may be held open without being read: a peer's turn lasts as long as that.
        """
        if self.outcome.done() and isinstance(self.body, BodyStream):
            return max(self.since, self.body.awaited_since)
        return self.since

    def report_late(self) -> None:
        """Wake the coroutine that awaits the outcome, to race another exchange against this one."""
        self.late_seconds = math.inf
        if not self.outcome.done():
            self.outcome.set_result(False)
            self.outcome = self._loop.create_future()

    def pause(self) -> None:
        """Stop receiving."""
        if self.connection is not None:
            self.is_paused = True
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        """Receive again."""
        if self.is_paused and self.connection is not None:
            self.since = self._loop.time()
            self.connection.transport.resume_reading()
        self.is_paused = False

    def close(self) -> None:
        """Give up; the connection is closed unless the response has ended."""
        self.outcome.cancel()
        if self.connection is not None:
            self.connection.close(Broken("was given up"))


@dataclass(slots=True, eq=False)
class ClientConnection(asyncio.Protocol):
    """One connection, fed by the event loop; carries one exchange at a time.

    Its owner learns by `on_end` that an exchange has ended, and whether another one may follow, and
    by `on_close` that the connection is closed.
    """

    transport: asyncio.Transport = field(init=False)
    is_open: bool = False
    idle_since: float | None = None  # None before the first exchange
    on_end: Callable[[ClientConnection, Exchange, bool], None] | None = None
    on_close: Callable[[ClientConnection], None] | None = None
    _exchange: Exchange | None = None

    def begin(self, exchange: Exchange, request: bytes) -> None:
        """Send the request of an exchange; raise Broken if the connection has been closed."""
        if not self.is_open:
            said = "closed the connection, or sent bytes, before any request"
            raise Broken(said) if self.idle_since is None else Stale(said)
        self._exchange = exchange
        exchange.connection = self
        self.transport.write(request)

    def detach(self) -> None:
        """Forget the exchange: a proxy's answer to CONNECT is only a head."""
        if self._exchange is not None:
            self._exchange.connection = None
            self._exchange = None

    def close(self, error: RequestFailed) -> None:
        """Close the connection at once; an exchange that is under way fails."""
        self._drop()
        self._end(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Feed the exchange."""
        exchange = self._exchange
        if exchange is None:
            self._drop()  # bytes that no request asked for
            return
        try:
            exchange.take(data)
        except RequestFailed as error:
            self.close(error)
            return
        if exchange.incoming.is_over:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange; a body without a length ends well in this way."""
        self._drop()
        exchange = self._exchange
        if exchange is None:
            return
        failure: RequestFailed | None = None
        if exchange.is_untouched and self.idle_since is not None:
            failure = Stale("closed the connection while it was idle")
        elif error is not None:
            failure = Broken(text_of(error))
        else:
            try:
                exchange.incoming.end()
            except Broken as early:
                failure = early
        self._end(failure)

    def _end(self, error: RequestFailed | None) -> None:
        """End the exchange, and give the connection back if it is good for another one."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        is_kept = error is None and self.is_open and exchange.incoming.is_kept
        if not is_kept:
            self._drop()
        elif exchange.is_paused:
            exchange.resume()
        exchange.end(error)
        if self.on_end is not None:
            self.on_end(self, exchange, is_kept)

    def _drop(self) -> None:
        if self.is_open:
            self.is_open = False
            self.transport.abort()
            if self.on_close is not None:
                self.on_close(self)
