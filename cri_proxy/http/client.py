"""The HTTP client: requests from coroutines and from threads, over connections that stay open.

    fetch    a coroutine of the client's event loop: a small body, whole, up to a limit
    open     for threads: the response, whose body is read while it arrives
    ask      for threads: a small body, whole, within a deadline

Redirects follow one set of rules. 301, 302, 303, 307 and 308 with a Location are followed five
times at most, for GET, to http and https; Authorization is dropped for good where the origin
changes. A request may be restricted to its origin, or follow none. Everything that goes wrong
raises a `RequestFailed`; a status is not a failure.

The body is as the server sent it: `encoding_of` returns its Content-Encoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import urllib.parse
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cri_proxy.http import messages
from cri_proxy.http.connections import Body, BodyBuffer, BodyStream, Exchange
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import Broken, RedirectRefused, TimedOut, TooManyRedirects
from cri_proxy.http.pool import ConnectionPool
from cri_proxy.lib.eventloop import Loop

SILENCE_SECONDS: Final = 30.0
REDIRECTS: Final = 5

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_ENCODINGS: Final = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
_SKIPPED_BYTES: Final = 64 * 1024

T = TypeVar("T")


class Follow(enum.Enum):
    """Which redirects a request follows."""

    ALL = enum.auto()
    ORIGIN = enum.auto()  # within its origin; others raise RedirectRefused
    NONE = enum.auto()  # the redirect is the response


@dataclass(slots=True, eq=False)
class Request:
    """One request. Not frozen, as all in the way of thousands of requests: that takes a µs each."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "GET"
    body: bytes = b""
    follow: Follow = Follow.ALL


@dataclass(slots=True, eq=False)
class Head:
    """The head of a response; `headers` have names in lower case, `url` is where redirects led."""

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]


@dataclass(slots=True, eq=False)
class WholeResponse(Head):
    """A response with its body."""

    body: bytes


@dataclass(slots=True, eq=False)
class Response(Head):
    """A response whose body is read while it arrives, by one thread."""

    _exchange: Exchange
    _stream: BodyStream
    _loop: Loop

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end; raise RequestFailed."""
        return self._stream.read(size)

    def skip(self) -> None:
        """Close it, but receive a short body to its end, so that the connection is kept."""
        left = _SKIPPED_BYTES
        try:
            while left > 0 and (piece := self.read(left)):
                left -= len(piece)
        except Broken:
            return
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body has ended."""
        if self._exchange.connection is not None:
            self._loop.get().call_soon_threadsafe(self._exchange.close)


class Client:
    """Connections to all origins, up to `size` idle to each; safe for threads.

    A server that sends nothing for `silence_seconds` is given up. Requests whose response is late
    are sent again on another connection if the client `is_hedging`.
    """

    def __init__(
        self,
        *,
        size: int,
        loop: Loop | None = None,
        dialer: Dialer | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        is_hedging: bool = False,
    ) -> None:
        self._loop = loop or Loop()
        self._pool = ConnectionPool(
            dialer or Dialer(), size=size, silence_seconds=silence_seconds, is_hedging=is_hedging
        )
        weakref.finalize(self, _close, self._loop, self._pool).atexit = False

    def open(self, request: Request) -> Response:
        """Send a request and return the response, its body not read; raise RequestFailed."""
        return self._loop.wait(self._open(request))

    def ask(self, request: Request, *, limit: int, seconds: float) -> WholeResponse:
        """Send a request and return the response; all of it takes `seconds` at most."""
        return self._loop.wait(self.fetch_within(seconds, request, limit=limit))

    async def fetch(self, request: Request, *, limit: int) -> WholeResponse:
        """Send a request and return the response; raise RequestFailed."""
        exchange, url = await self._follow(request, functools.partial(BodyBuffer, limit))
        incoming, body = exchange.incoming, exchange.body
        assert isinstance(body, BodyBuffer)
        return WholeResponse(url, incoming.status, incoming.reason, incoming.headers, body.data())

    async def fetch_within(self, seconds: float, request: Request, *, limit: int) -> WholeResponse:
        """Do as `fetch`; all of it takes `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                return await self.fetch(request, limit=limit)
        except TimeoutError as error:
            raise TimedOut(f"was not done within {seconds:g} s") from error

    async def _open(self, request: Request) -> Response:
        exchange, url = await self._follow(request, BodyStream)
        incoming, body = exchange.incoming, exchange.body
        assert isinstance(body, BodyStream)
        return Response(
            url, incoming.status, incoming.reason, incoming.headers, exchange, body, self._loop
        )

    async def _follow(self, request: Request, body_of: Callable[[], Body]) -> tuple[Exchange, str]:
        """Send a request, and again where redirects lead; return the exchange and its URL."""
        url, headers = request.url, request.headers
        for _ in range(REDIRECTS + 1):
            origin, target = messages.parts_of(url)
            destination = self._pool.destination(origin)
            sent = destination.with_login(headers)
            message = messages.request_of(
                origin, target, sent, request.method, request.body, destination.is_forwarded
            )
            exchange = await destination.ask(message, body_of)
            if exchange.incoming.status not in _MOVED or request.follow is Follow.NONE:
                return exchange, url
            location = exchange.incoming.headers.get("location")
            if location is None:
                return exchange, url
            if isinstance(exchange.body, BodyStream):
                exchange.body.skip()
            url = _redirected(request, url, origin, location)
            if messages.parts_of(url)[0] != origin:
                headers = {
                    name: value
                    for name, value in headers.items()
                    if name.lower() != "authorization"
                }
        raise TooManyRedirects(f"redirects more than {REDIRECTS} times")


def encoding_of(head: Head) -> str:
    """Return how a body is encoded: "gzip", "zstd", or "" if it is not; raise Broken for others."""
    said = head.headers.get("content-encoding", "")
    encoding = _ENCODINGS.get(said.strip().lower())
    if encoding is None:
        raise Broken(f"uses the content encoding {said[:40]!a}, which is not supported")
    return encoding


def _redirected(request: Request, url: str, origin: messages.Origin, location: str) -> str:
    """Return the URL that a redirect leads to, if the request may follow."""
    try:
        target = urllib.parse.urljoin(url, location)
        parts = urllib.parse.urlsplit(target)
    except ValueError as error:
        raise Broken(f"redirects to {location[:100]!a}, which is not a URL") from error
    if parts.scheme not in messages.PORTS or not parts.hostname:
        raise Broken(f"redirects to {parts.scheme[:20]!a}, which is not followed")
    is_elsewhere = request.follow is Follow.ORIGIN and messages.parts_of(target)[0] != origin
    if is_elsewhere or request.method != "GET":
        raise RedirectRefused("redirects where the request does not follow", target)
    return target


def _close(loop: Loop, pool: ConnectionPool) -> None:
    """Close the connections of a client that is no more."""
    if loop.is_started:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and closed them
            loop.get().call_soon_threadsafe(pool.close)
