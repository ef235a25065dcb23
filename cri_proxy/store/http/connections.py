"""Connections to sites: HTTP/1.1 GET, over connections that stay open between requests.

    get     sends a request and waits for its answer, which is then read piece by piece
    begin   sends a request on a connection that is open and idle, and waits for nothing: the
            `Exchange` can be polled, so that one thread has many under way
    widen   opens another connection that `begin` will find idle

A closure is hundreds of small requests, and a general library spends more time on each than it
takes to unpack what comes. So what happens on an open connection is ours (`messages`, `exchanges`),
and no more of HTTP than caches speak: GET, lengths or chunks, redirections. Connections are opened
by `dialing`. What a proxy forwards instead of giving a tunnel to it is `forwarding`'s: `get` alone.

An answer that is late by what is usual at its site is asked for once more on another connection,
and the first to come is taken. Nothing else is tried twice here, save on a connection that the
other side has closed while it was idle.
"""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.parse
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.store.http import messages
from cri_proxy.store.http.dialing import Dialer
from cri_proxy.store.http.exchanges import (
    STALE,
    Answer,
    Exchange,
    Passing,
    Response,
    readable_of,
    text_of,
)
from cri_proxy.store.http.forwarding import REDIRECTIONS, Forwarding
from cri_proxy.store.http.messages import Broken, Origin

SILENCE_SECONDS: Final = 30.0
LATE_SECONDS: Final = 1.0
"""An answer before this is never late."""

_LATE_TIMES: Final = 4
_MOVED: Final = frozenset({301, 302, 303, 307, 308})


class Connections:
    """The connections to all sites, up to `size` to each kept open between requests.

    Safe for threads. `ca_file` replaces the system's certificate authorities; a site that sends
    nothing for `silence_seconds` is given up.
    """

    def __init__(
        self, *, ca_file: Path | None, size: int, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self.silence_seconds = silence_seconds
        self._dialer = Dialer(ca_file=ca_file, silence_seconds=silence_seconds)
        self._forwarding = Forwarding(self._dialer, size=size, silence_seconds=silence_seconds)
        self._size = size
        self._idle: dict[Origin, list[socket.socket]] = {}
        self._usual: dict[Origin, float] = {}
        self._changing = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    def get(self, url: str, headers: Mapping[str, str], *, follows: bool = True) -> Response:
        """Send a GET and return the response, its body not read; raise SourceUnreachable.

        A redirection is followed, without credentials if it leads elsewhere, or is the response.
        """
        try:
            return self._follow(url, dict(headers), REDIRECTIONS if follows else 0)
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
        self.give(origin, self._dialer.dial(origin))

    def is_direct(self, url: str) -> bool:
        """Whether no proxy forwards what a site is asked: `begin` and `widen` are for those."""
        return self._dialer.proxy_of(url) is None

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

    def _follow(self, url: str, headers: dict[str, str], times: int) -> Response:
        """Send a GET, and again where the answer leads; credentials stay with the first origin."""
        for followed in range(times + 1):
            if (proxy := self._dialer.proxy_of(url)) is not None:
                return self._forwarding.get(proxy, url, headers, redirections=times - followed)
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
        raise Broken(f"redirects more than {REDIRECTIONS} times")

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
            exchange = Exchange(self, origin, self._dialer.dial(origin), request, is_new=True)
            exchange.send()
            return exchange
        idle.settimeout(self.silence_seconds)
        exchange = Exchange(self, origin, idle, request)
        try:
            exchange.send()
        except STALE:
            exchange.renew()
        return exchange

    def reopen(self, origin: Origin) -> socket.socket:
        """Return a new connection in place of one that the other side has closed."""
        return self._dialer.dial(origin)


def _close_all(idle: Mapping[Origin, list[socket.socket]]) -> None:
    for sockets in idle.values():
        for each in sockets:
            each.close()


def _sooner(first: Exchange, second: Exchange, seconds: float) -> Exchange:
    """Return the exchange that is answered sooner; the first if neither is."""
    readable = readable_of((first, second), seconds)
    return second if readable == [second] else first
