"""Open connections to all origins: kept between requests, and raced against each other.

A request takes an idle connection, or waits for one that is opened for it or becomes idle before.
Two things may happen to it, and both are dealt with here and nowhere else:

    the server closed the idle connection   the request is sent again on another one
    the response is late for this origin    the request is sent again on another connection, and the
                                            response that is usable first is taken

One timer looks at all exchanges under way, for lateness and for silence. A rate that a source has
to keep to would be a third thing for it to look at.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from cri_proxy.http.connections import Body, ClientConnection, Exchange
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import Broken, RequestFailed, Stale, TimedOut
from cri_proxy.http.messages import Origin

LATE_SECONDS: Final = 1.0
"""A response before this is never late."""

IDLE_SECONDS: Final = 30.0
"""A connection is kept for so long without a request, or half of it."""

_LATE_TIMES: Final = 4
_LOOK_SECONDS: Final = 0.1
_NARROW_SECONDS: Final = 10.0
"""For so long no connections are opened beside those that are open, after one was refused."""


@dataclass(slots=True, eq=False)
class ConnectionPool:
    """The connections of one client, in the event loop's thread; up to `size` idle to each origin.

    An exchange that is silent for `silence_seconds` fails. Late ones are raced if `is_hedging`.
    """

    dialer: Dialer
    _: KW_ONLY
    size: int
    silence_seconds: float
    is_hedging: bool
    is_closed: bool = False
    _destinations: dict[Origin, Destination] = field(default_factory=dict)
    _busy: set[Exchange] = field(default_factory=set)
    _timer: asyncio.TimerHandle | None = None
    _expiry: asyncio.TimerHandle | None = None

    def destination(self, origin: Origin) -> Destination:
        """Return the connections to an origin."""
        found = self._destinations.get(origin)
        if found is None:
            found = self._destinations[origin] = Destination(self, origin)
        return found

    def close(self) -> None:
        """Close all connections."""
        self.is_closed = True
        for each in tuple(self._busy):
            each.close()
        for destination in self._destinations.values():
            destination.close()
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()

    def watch(self, exchange: Exchange) -> None:
        """Look at an exchange now and then, until it is released."""
        self._busy.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def unwatch(self, exchange: Exchange) -> None:
        """Look at an exchange no more."""
        self._busy.discard(exchange)

    def expire_later(self) -> None:
        """Close connections that stay idle, after a while: each has buffers, those of TLS most."""
        if self._expiry is None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        latest = asyncio.get_running_loop().time() - IDLE_SECONDS / 2
        left = [each.expire(latest) for each in self._destinations.values()]
        if any(left):
            self.expire_later()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_SECONDS, self._look) if self._busy else None
        now = loop.time()
        for each in tuple(self._busy):
            silent = now - each.silent_since()
            if silent > self.silence_seconds:
                said = "timed out" if each.incoming.status else "gave no answer in time"
                if each.connection is not None:
                    each.connection.close(TimedOut(said))
            elif silent > each.late_seconds:
                each.report_late()


class Destination:
    """One origin: its connections, the proxy on the way, and how fast it usually answers."""

    def __init__(self, pool: ConnectionPool, origin: Origin) -> None:
        """Look the proxy up; raise RequestInvalid for one that is none."""
        self.proxy = pool.dialer.proxy_of(origin)
        self.is_forwarded = self.proxy is not None and origin[0] == "http"
        self._pool = pool
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._idle: list[ClientConnection] = []
        self._open = 0  # connections, idle or not
        self._dials: set[asyncio.Task[None]] = set()
        self._waiting: collections.deque[asyncio.Future[ClientConnection]] = collections.deque()
        self._refusal: RequestFailed | None = None  # of the last connection
        self._narrow_until = 0.0
        self._usual_seconds: float | None = None

    async def ask(
        self, request: bytes, body_of: Callable[[], Body], *, is_double: bool = False
    ) -> Exchange:
        """Send a request; return the exchange when its response is usable. Raises RequestFailed."""
        while True:
            connection = self._idle.pop() if self._idle else await self._connection()
            exchange = Exchange(body_of(), self._loop)
            if self._pool.is_hedging and not is_double:
                usual = self._usual_seconds or 0.0
                exchange.late_seconds = max(LATE_SECONDS, _LATE_TIMES * usual)
            try:
                connection.begin(exchange, request)
                self._pool.watch(exchange)
                if not await exchange.outcome:
                    exchange = await self._race(exchange, request, body_of)
            except Stale:
                continue
            except BaseException:
                exchange.close()
                raise
            seconds = exchange.since - exchange.sent_at
            usual = seconds if self._usual_seconds is None else self._usual_seconds
            self._usual_seconds = usual + (seconds - usual) / 16  # a mean that forgets
            return exchange

    def with_login(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers of a request, with the login to the proxy if that forwards it."""
        if self.proxy is None or not self.is_forwarded:
            return headers
        return {**headers, **self.proxy.headers}

    def close(self) -> None:
        """Close the idle connections, and open no more."""
        for task in self._dials:
            task.cancel()
        for connection in tuple(self._idle):
            connection.close(Broken("was closed"))
        for waiter in self._waiting:
            waiter.cancel()

    def expire(self, latest: float) -> bool:
        """Close connections that are idle since then; return whether others are left."""
        for connection in tuple(self._idle):
            if connection.idle_since is not None and connection.idle_since <= latest:
                connection.close(Broken("was closed"))
        return bool(self._idle)

    async def _race(self, first: Exchange, request: bytes, body_of: Callable[[], Body]) -> Exchange:
        """Return whichever is usable first: a late response, or that to the same request again."""
        double = self._loop.create_task(self.ask(request, body_of, is_double=True))
        winner: Exchange | None = None
        try:
            await asyncio.wait((first.outcome, double), return_when=asyncio.FIRST_COMPLETED)
            is_usable = first.outcome.done() and first.outcome.exception() is None
            if is_usable or (double.done() and double.exception() is not None):
                await first.outcome
                winner = first
            else:
                winner = await double
            return winner
        finally:
            if winner is not first:
                first.close()
            double.cancel()
            double.add_done_callback(lambda done: _discard(done, unless=winner))

    async def _connection(self) -> ClientConnection:
        """Wait for a connection: one that is opened for this request, or becomes idle before."""
        waiter: asyncio.Future[ClientConnection] = self._loop.create_future()
        self._waiting.append(waiter)
        if self._refusal is not None and self._open and self._loop.time() < self._narrow_until:
            self._fail_later(waiter, self._refusal)
        elif len(self._dials) < len(self._waiting):
            self._dial(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result())
            raise

    def _dial(self, waiter: asyncio.Future[ClientConnection]) -> None:
        task = self._loop.create_task(self._opened(waiter))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _opened(self, waiter: asyncio.Future[ClientConnection]) -> None:
        """Open a connection for a request that waits, or for the one before it."""
        try:
            connection = await self._pool.dialer.dial(self._origin, self.proxy)
        except RequestFailed as error:
            if self._open:  # the server may allow no more than it has
                self._refusal = error
                self._narrow_until = self._loop.time() + _NARROW_SECONDS
                for each in self._waiting:
                    self._fail_later(each, error)
                return
            is_last = len(self._dials) == 1
            for each in self._waiting if is_last else (waiter,):
                _fail(each, error)
            return
        except BaseException as error:
            for each in self._waiting:
                _fail(each, error)
            raise
        connection.on_end, connection.on_close = self._take_back, self._forget
        self._open += 1
        self._give(connection)

    def _take_back(self, connection: ClientConnection, exchange: Exchange, is_kept: bool) -> None:
        self._pool.unwatch(exchange)
        if is_kept:
            connection.idle_since = self._loop.time()
            self._give(connection)

    def _forget(self, connection: ClientConnection) -> None:
        """Drop a closed connection, and open another one for a request that waits for it."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and not self._dials and not self._pool.is_closed:
            self._dial(self._waiting[0])

    def _fail_later(self, waiter: asyncio.Future[ClientConnection], error: RequestFailed) -> None:
        self._loop.call_later(_NARROW_SECONDS, _fail, waiter, error)

    def _give(self, connection: ClientConnection) -> None:
        """Hand a connection to a request that waits, or keep it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if len(self._idle) < self._pool.size and not self._pool.is_closed:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
            self._pool.expire_later()
        else:
            connection.close(Broken("was closed"))


def _fail(waiter: asyncio.Future[ClientConnection], error: BaseException) -> None:
    if not waiter.done():
        waiter.set_exception(error)


def _discard(done: asyncio.Task[Exchange], *, unless: Exchange | None) -> None:
    if not done.cancelled() and done.exception() is None and done.result() is not unless:
        done.result().close()
