"""Connections to sites: HTTP/1.1 GET, over connections that stay open between requests.

    get     sends a request and waits for its answer, which is then read piece by piece
    begin   sends a request on a connection that is open and idle, and waits for nothing: the
            `Exchange` can be polled, so that one thread has many under way
    widen   opens another connection that `begin` will find idle

A closure is hundreds of small requests, and a general library spends more time on each than it
takes to unpack what comes. So what happens on an open connection is here, and no more of HTTP than
caches speak: GET, lengths or chunks, redirections. Names, sockets and TLS are the standard
library's business. What goes through a proxy is urllib3's, from start to end: `get` alone.

An answer that is late by what is usual at its site is asked for once more on another connection,
and the first to come is taken. Nothing else is tried twice here, save on a connection that the
other side has closed while it was idle.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - with the first name that is looked up, while others wait
import select
import socket
import ssl
import threading
import time
import urllib.parse
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import urllib3

from cri_proxy import errors
from cri_proxy.lib import certificates, proxies
from cri_proxy.lib.once import Once
from cri_proxy.store import messages
from cri_proxy.store.messages import Broken, Origin

CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0
LATE_SECONDS: Final = 1.0
"""An answer before this is never late."""

_LATE_TIMES: Final = 4
_REDIRECTIONS: Final = 5
_RECEIVED_BYTES: Final = 64 * 1024
_SKIPPED_BYTES: Final = 64 * 1024
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_RETRIES: Final = urllib3.Retry(
    total=_REDIRECTIONS, connect=0, read=0, status=0, other=0, redirect=_REDIRECTIONS
)
_STALE: Final = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


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


class Connections:
    """The connections to all sites, up to `size` to each kept open between requests.

    Safe for threads. `ca_file` replaces the system's certificate authorities; a site that sends
    nothing for `silence_seconds` is given up.
    """

    def __init__(
        self, *, ca_file: Path | None, size: int, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self.silence_seconds = silence_seconds
        self._trust = Once(lambda: certificates.context(file=ca_file))
        if ca_file is not None:
            self._trust.get()  # whoever set it hears at once that it cannot be read
        self._size = size
        self._proxies = proxies.Proxies()
        self._idle: dict[Origin, list[socket.socket]] = {}
        self._usual: dict[Origin, float] = {}
        self._proxied: dict[str, urllib3.ProxyManager] = {}
        self._changing = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    def get(self, url: str, headers: Mapping[str, str], *, follows: bool = True) -> Response:
        """Send a GET and return the response, its body not read; raise SourceUnreachable.

        A redirection is followed, without credentials if it leads elsewhere, or is the response.
        """
        if (proxy := self._proxies.of(url)) is not None:
            return self._get_through(proxy, url, headers, follows=follows)
        try:
            return self._follow(url, dict(headers), _REDIRECTIONS if follows else 0)
        except ssl.SSLError as error:
            raise errors.SourceUnreachable(f"TLS failed: {error}") from error
        except TimeoutError as error:
            raise Passing("gave no answer in time") from error
        except (OSError, Broken, ValueError) as error:
            raise Passing(text_of(error)) from error

    def begin(self, url: str, headers: Mapping[str, str]) -> Exchange | None:
        """Send a GET on an idle connection, without waiting for anything; None if there is none."""
        origin, target = messages.parts_of(url)
        while (taken := self._take(origin)) is not None:
            taken.settimeout(0)
            exchange = Exchange(self, origin, taken, messages.request_of(origin, target, headers))
            try:
                exchange.send()
            except OSError:
                exchange.close()  # closed while it was idle
                continue
            return exchange
        return None

    def widen(self, url: str) -> None:
        """Open a connection that `begin` will find; raises OSError."""
        origin, _ = messages.parts_of(url)
        self.give(origin, self._connect(origin))

    def is_direct(self, url: str) -> bool:
        """Whether no proxy is between us and a site: `begin` and `widen` are for those."""
        return self._proxies.of(url) is None

    def late_seconds(self, url: str) -> float:
        """Return how long an answer may take before it is late."""
        return self.late_at(messages.parts_of(url)[0])

    def give(self, origin: Origin, given: socket.socket) -> None:
        """Keep a connection on which nothing is under way."""
        with self._changing:
            idle = self._idle.setdefault(origin, [])
            if len(idle) < self._size:
                idle.append(given)
                return
        given.close()

    def note(self, origin: Origin, seconds: float) -> None:
        """Learn how long an answer took: the usual is a mean that forgets."""
        usual = self._usual.get(origin, seconds)
        self._usual[origin] = usual + (seconds - usual) / 16

    def _take(self, origin: Origin) -> socket.socket | None:
        with self._changing:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

    def late_at(self, origin: Origin) -> float:
        """Return how long an answer of an origin may take before it is late."""
        return max(LATE_SECONDS, _LATE_TIMES * self._usual.get(origin, 0.0))

    def _connect(self, origin: Origin) -> socket.socket:
        """Return a new connection, with TLS where the scheme says so."""
        scheme, host, port = origin
        made = socket.create_connection((host, port), CONNECT_SECONDS)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                made = self._trust.get().wrap_socket(made, server_hostname=host)
            made.settimeout(self.silence_seconds)
        except BaseException:
            made.close()
            raise
        return made

    def _follow(self, url: str, headers: dict[str, str], times: int) -> Response:
        """Send a GET, and again where the answer leads; credentials stay with the first origin."""
        for _ in range(times + 1):
            origin, target = messages.parts_of(url)
            answer = self._ask(origin, messages.request_of(origin, target, headers))
            location = answer.headers.get("location")
            if answer.status not in _MOVED or location is None or not times:
                return answer
            answer.skip()
            url = urllib.parse.urljoin(url, location)
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in messages.PORTS or not parts.hostname:
                raise Broken(f"redirects to {parts.scheme[:20]!a}, which is not followed")
            if messages.parts_of(url)[0] != origin:
                headers.pop("Authorization", None)
        raise Broken(f"redirects more than {_REDIRECTIONS} times")

    def _ask(self, origin: Origin, request: bytes) -> Answer:
        """Return the answer to a request, or that to its double if the first one is late."""
        first = self._begun(origin, request)
        try:
            if first.is_answering(self.late_at(origin)):
                return Answer(first)
            second = self._begun(origin, request)
        except BaseException:
            first.close()
            raise
        winner = first
        try:
            winner = _sooner(first, second, self.silence_seconds)
            return Answer(winner)
        finally:
            (second if winner is first else first).close()

    def _begun(self, origin: Origin, request: bytes) -> Exchange:
        """Send a request on an idle connection, or on a new one."""
        idle = self._take(origin)
        if idle is None:
            exchange = Exchange(self, origin, self._connect(origin), request, is_new=True)
            exchange.send()
            return exchange
        idle.settimeout(self.silence_seconds)
        exchange = Exchange(self, origin, idle, request)
        try:
            exchange.send()
        except _STALE:
            exchange.renew()
        return exchange

    def reopen(self, origin: Origin) -> socket.socket:
        """Return a new connection in place of one that the other side has closed."""
        return self._connect(origin)

    def _get_through(
        self, proxy: proxies.Proxy, url: str, headers: Mapping[str, str], *, follows: bool
    ) -> Response:
        try:
            return self._manager_of(proxy).request(
                "GET",
                url,
                headers={"User-Agent": "cri-proxy", "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=follows,
                retries=urllib3.Retry(
                    total=_REDIRECTIONS,
                    connect=0,
                    read=0,
                    status=0,
                    other=0,
                    redirect=_REDIRECTIONS,
                ),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=self.silence_seconds),
            )
        except urllib3.exceptions.HTTPError as error:
            reason = _cause_of(error)
            if isinstance(reason, urllib3.exceptions.SSLError):
                raise errors.SourceUnreachable(f"TLS failed: {reason}") from error
            raise Passing(text_of(reason)) from error

    def _manager_of(self, proxy: proxies.Proxy) -> urllib3.ProxyManager:
        with self._changing:
            if proxy.url not in self._proxied:
                self._proxied[proxy.url] = urllib3.ProxyManager(
                    proxy.url,
                    maxsize=self._size,
                    ssl_context=self._trust.get(),
                    proxy_headers=proxy.headers,
                )
            return self._proxied[proxy.url]


class Exchange:
    """One request on its connection, and the answer to it as it comes; of one thread.

    When the body has ended, the connection is given back. `since` is when something came last.
    """

    __slots__ = (
        "_connections",
        "_incoming",
        "_is_new",
        "_origin",
        "_request",
        "_sent_at",
        "_socket",
        "since",
    )

    def __init__(
        self,
        connections: Connections,
        origin: Origin,
        taken: socket.socket,
        request: bytes,
        *,
        is_new: bool = False,
    ) -> None:
        self._connections = connections
        self._origin = origin
        self._socket: socket.socket | None = taken
        self._request = request
        self._is_new = is_new
        self._incoming = messages.Incoming()
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
        return bool(_readable_of((self,), seconds))

    def receive(self, size: int = _RECEIVED_BYTES) -> bytes:
        """Return bytes of the body that come next, none if it was a part of the head, or the end.

        Raises Stale, Broken, or OSError: BlockingIOError if nothing has come on a connection of
        `Connections.begin`.
        """
        assert self._socket is not None
        has_head = self._incoming.status
        try:
            data = self._socket.recv(size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except _STALE:
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
            self._connections.note(self._origin, self.since - self._sent_at)
        if self._incoming.is_over:
            self._finish()
        return body

    def renew(self) -> None:
        """Send the request on a new connection, in place of one that was closed while idle."""
        self.close()
        self._socket, self._is_new = self._connections.reopen(self._origin), True
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
            self._connections.give(self._origin, self._socket)
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


def text_of(error: Exception) -> str:
    """Return what an operator should read of a connection's failure."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error) or type(error).__name__


def _close_all(idle: Mapping[Origin, list[socket.socket]]) -> None:
    for sockets in idle.values():
        for each in sockets:
            each.close()


def _sooner(first: Exchange, second: Exchange, seconds: float) -> Exchange:
    """Return the exchange that is answered sooner; the first if neither is."""
    readable = _readable_of((first, second), seconds)
    return second if readable == [second] else first


def _readable_of(exchanges: tuple[Exchange, ...], seconds: float) -> list[Exchange]:
    """Return those of which something can be read, when there is one or the time is over."""
    poll = select.poll()
    for each in exchanges:
        poll.register(each.fileno(), select.POLLIN)
    found = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
    return [each for each in exchanges if each.fileno() in found]


def _cause_of(error: Exception) -> Exception:
    """Return what is behind urllib3's MaxRetryError."""
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else None
    return error if reason is None else reason
