"""The client side of peers: a worker gets paths from other nodes where it can.

`look_up` asks the path's tracker (the peer that the path's digest selects) for the narinfo, before
any cache is asked; `tell` sends the tracker what a cache answered. `bring` waits for a turn: to
fetch the archive from a peer, or from the origin on behalf of all nodes that want the path now.
When the path is in place and public, the tracker is notified that this node has it.

Nothing here can fail a path, and all of it is bounded: a peer has a second to accept a connection
and seconds to answer; an archive must arrive at a minimum rate; a peer that failed is not asked for
a while. The origin remains, as if there were no peers.

A turn lasts as long as the connection on which it was given, so it ends with a worker that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cri_proxy import errors
from cri_proxy.http.client import Client, Request, Response, WholeResponse
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import RequestFailed
from cri_proxy.http.statuses import Meaning, meaning_of
from cri_proxy.lib.eventloop import Loop
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.caches import cache
from cri_proxy.store.caches.cache import REFUSALS, SMALL_BYTES, Cache, Offer, Passing
from cri_proxy.store.disk.local import Store
from cri_proxy.store.nar import ByteSource
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.peers import addresses
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.telemetry import logs

API: Final = "peers/1"
SOURCE_HEADER: Final = "Cri-Proxy-Source"
CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 10.0
"""Longest silence of a peer. It holds a request back for `serving.HOLD_SECONDS` at most."""

BENCHED_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 30.0
PATIENCE_BYTES_A_SECOND: Final = 1_000_000
"""How long to wait for a turn, or an archive: so long, and in proportion to its size."""

_TRIES: Final = 3
_TRACKERS: Final = 2
_TOLD_AT_ONCE: Final = 1000
_log = logs.of(__name__)

T = TypeVar("T")


class Peers:
    """The other nodes, for a worker of this one; safe for threads. `connections` to each at most.

    `store` says what this node has.
    """

    def __init__(
        self, known: Addresses, store: Store, *, connections: int = 32, loop: Loop | None = None
    ) -> None:
        self._addresses = known
        self._store = store
        self._loop = loop or Loop()
        self._client = Client(
            size=connections,
            loop=self._loop,
            dialer=Dialer(connect_seconds=CONNECT_SECONDS, is_direct=True, source=known.source),
            silence_seconds=ANSWER_SECONDS,
        )
        self._benched: dict[str, float] = {}
        self._telling = asyncio.Lock()

    @property
    def are_wanted(self) -> bool:
        """Whether peers are configured."""
        return bool(self._addresses.names)

    @property
    def are_there(self) -> bool:
        """Whether there are peers; the first call waits for the lookup of their names."""
        return bool(self._addresses.all)

    def look_up(self, path: StorePath) -> Offer | None:
        """Return what a peer says of a path, unverified; None if there is no such peer."""
        for address in self._trackers_of(path.digest):
            with self._benching(address):
                response = self._loop.wait(self._ask("GET", address, f"narinfo/{path.digest}"))
                if response.status != 200:
                    return None
                info = narinfo.parse(response.body, path)
                return Offer(_Peer(self, address, info.nar_size), info)
        return None

    def tell(self, path: StorePath, info: NarInfo | None) -> None:
        """Send the tracker what a cache says of a path, in the background, one after the other.

        None: other nodes have to ask themselves, since the cache does not say it to all of them.
        """
        if self._addresses.all:
            text = "" if info is None else narinfo.text_of(info)
            self._loop.submit(self._tell(path, text))

    def bring(
        self,
        info: NarInfo,
        use: Callable[[Offer], T],
        otherwise: Callable[[], T],
        check: Callable[[], None],
    ) -> T:
        """Return what `use` makes of a peer's offer of a path, or else what `otherwise` returns.

        `use` refuses an offer as in `Caches.seek`. `check` is called while a turn is waited for.
        """
        for _ in range(_TRIES):
            with self._turn(info, check) as turn:
                if turn is None:
                    break
                if turn.source is None:
                    made = otherwise()
                else:
                    try:
                        made = use(self._offer_of(info, turn.source))
                    except REFUSALS as error:
                        _log.info(
                            "offer of a peer not used", path=info.path, peer=turn.source, why=error
                        )
                        if not isinstance(error, _Gone):
                            self.bench(turn.source)
                        continue
                turn.is_done = True
                if self._store.is_public(info.path):
                    self._hold(turn.tracker, [info.path.digest])
                return made
        return otherwise()

    def announce(self, paths: Iterable[StorePath]) -> None:
        """Notify every tracker which of its paths this node has."""
        by_tracker: dict[str, list[str]] = {}
        for path in paths:
            for address in self._trackers_of(path.digest)[:1]:
                by_tracker.setdefault(address, []).append(path.digest)
        for address, digests in by_tracker.items():
            for start in range(0, len(digests), _TOLD_AT_ONCE):
                self._hold(address, digests[start : start + _TOLD_AT_ONCE])

    def open(self, address: str, name: str) -> Response:
        """Send a GET to a peer and return the response, its body not read; raise Passing."""
        try:
            return self._client.open(Request(f"http://{address}/{name}"))
        except RequestFailed as error:
            raise Passing(str(error)) from error

    def bench(self, address: str) -> None:
        """Stop asking a peer for a while."""
        self._benched[address] = time.monotonic() + BENCHED_SECONDS

    @contextlib.contextmanager
    def _turn(self, info: NarInfo, check: Callable[[], None]) -> Iterator[_Turn | None]:
        """Hold a turn for a path; None when there is no peer to give one, or none in time."""
        turn = self._await_turn(info, check)
        if turn is None:
            yield None
            return
        try:
            yield turn
            if turn.source is not None and not turn.is_done:
                with self._benching(turn.tracker):
                    name = f"failure/{info.path.digest}"
                    self._loop.wait(self._ask("POST", turn.tracker, name, turn.source))
        finally:
            turn.response.close()

    def _await_turn(self, info: NarInfo, check: Callable[[], None]) -> _Turn | None:
        latest = time.monotonic() + PATIENCE_SECONDS + info.nar_size / PATIENCE_BYTES_A_SECOND
        while time.monotonic() < latest:
            check()
            tracker = next(iter(self._trackers_of(info.path.digest)), None)
            if tracker is None:
                return None
            with self._benching(tracker):
                name = f"{API}/turn/{info.path.digest}?size={info.nar_size}{self._by('&')}"
                response = self.open(tracker, name)
                source = response.headers.get(SOURCE_HEADER.lower(), "")
                if response.status == 200 and (not source or source in self._addresses.all):
                    return _Turn(tracker, source or None, response)
                response.skip()
                if response.status != 202:  # no turn yet
                    raise Passing(f"answered {response.status} {source[:100]!a}")
        return None

    def _offer_of(self, info: NarInfo, address: str) -> Offer:
        """Return a path as a peer serves it: under its own name, not compressed."""
        if self._is_benched(address):
            raise errors.SourceUnreachable("failed a moment ago")
        peer = _Peer(self, address, info.nar_size)
        return Offer(peer, replace(info, url=f"nar/{info.path.basename}.nar", compression="none"))

    def _hold(self, tracker: str, digests: Iterable[str]) -> None:
        """Notify a tracker that this node has some paths, if other nodes can get them here."""
        if self._addresses.own is not None:
            with self._benching(tracker):
                self._loop.wait(self._ask("POST", tracker, "holdings", "\n".join(digests)))

    async def _tell(self, path: StorePath, text: str) -> None:
        async with self._telling:
            for address in self._trackers_of(path.digest)[:1]:
                with self._benching(address):
                    await self._ask("PUT", address, f"narinfo/{path.basename}", text)

    async def _ask(self, method: str, address: str, name: str, body: str = "") -> WholeResponse:
        """Send a small request to a peer and return the response; raise RequestFailed."""
        url = f"http://{address}/{API}/{name}{self._by('?')}"
        request = Request(url, method=method, body=body.encode())
        response = await self._client.fetch_within(
            CONNECT_SECONDS + ANSWER_SECONDS, request, limit=SMALL_BYTES
        )
        if meaning_of(response.status) is Meaning.TRANSIENT:
            raise Passing(f"answered {response.status}")
        return response

    def _by(self, separator: str) -> str:
        own = self._addresses.own
        return "" if own is None else f"{separator}by={own}"

    def _trackers_of(self, digest: str) -> list[str]:
        """Return the trackers of a path, without benched peers."""
        ranked = addresses.ranked(digest, self._addresses.all)[:_TRACKERS]
        return [each for each in ranked if not self._is_benched(each)]

    def _is_benched(self, address: str) -> bool:
        return time.monotonic() < self._benched.get(address, 0.0)

    @contextlib.contextmanager
    def _benching(self, address: str) -> Iterator[None]:
        """Bench a peer that fails inside, and go on without it."""
        try:
            yield
        except (RequestFailed, OSError, *REFUSALS) as error:
            _log.info("peer not asked for a while", peer=address, why=error)
            self.bench(address)


@dataclass(slots=True)
class _Turn:
    """A turn that `tracker` gave: to fetch from `source`, or from the origin where it is None."""

    tracker: str
    source: str | None
    response: Response
    is_done: bool = False


class _Gone(errors.SourceUnreachable):
    """The peer does not have the path, for which it is not benched."""


class _Peer(Cache):
    """A peer, as a cache to take one path from."""

    is_open = True

    def __init__(self, peers: Peers, address: str, size: int) -> None:
        super().__init__(f"http://{address}")
        self._peers = peers
        self._address = address
        self._size = size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Open the archive, which has to arrive at a minimum rate."""
        with contextlib.closing(self._peers.open(self._address, name)) as response:
            if response.status == 404:
                raise _Gone("has it no more")
            if response.status != 200:
                raise Passing(f"answered {response.status}")
            yield _Paced(cache.body_of(response, name), self._size)


class _Paced:
    """The bytes of an archive, as long as they arrive at a minimum rate."""

    def __init__(self, body: ByteSource, size: int) -> None:
        self._body = body
        self._latest = time.monotonic() + ANSWER_SECONDS + size / PATIENCE_BYTES_A_SECOND

    def read(self, size: int, /) -> bytes:
        if time.monotonic() > self._latest:
            raise Passing("sends too slowly")
        return self._body.read(size)
