"""Asking: the worker's side of peers, which gets paths from them where it can.

`look_up` asks the peer that a path falls to for its narinfo, before any cache is asked; `tell` lets
that peer know what a cache answered. `bring` waits for a turn: to take the archive from a peer, or
to ask the origin, on behalf of all who want the path now. When the path is in place, and public,
the tracker hears that this node has it.

Nothing here can fail a path, and all of it is bounded: a peer has a second to accept a connection
and seconds to answer; an archive must come at a decent rate; one that failed is not asked for a
while. What is left is the origin, as if there were no peers.

A turn lasts as long as the connection on which it was given, so it ends with a worker that dies.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import urllib3

from cri_proxy import errors
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.caches.cache import Cache, Offer, Passing
from cri_proxy.store.disk.local import Store
from cri_proxy.store.nar import ByteSource
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.peers import addresses
from cri_proxy.store.peers.addresses import Addresses

API: Final = "peers/1"
SOURCE_HEADER: Final = "Cri-Proxy-Source"
CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 10.0
"""Silence that a peer may keep. It holds a question back for `serving.HOLD_SECONDS` at most."""

BENCHED_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 30.0
PATIENCE_BYTES_A_SECOND: Final = 1_000_000
"""How long a turn is waited for, or an archive: so long, and what is due to its size."""

_TRIES: Final = 3
_TRACKERS: Final = 2
_TOLD_AT_ONCE: Final = 1000
_REFUSALS: Final = (
    errors.ContentDamaged,
    errors.NotFound,
    errors.SignatureUntrusted,
    errors.SourceUnreachable,
)
_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Peers:
    """The other nodes, for a worker of this one; safe for threads. `connections` to each at most.

    `store` says what this node has.
    """

    def __init__(self, known: Addresses, store: Store, *, connections: int = 32) -> None:
        self._addresses = known
        self._store = store
        self._pool = urllib3.PoolManager(
            num_pools=256,
            maxsize=connections,
            retries=False,
            source_address=known.source,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
        )
        self._benched: dict[str, float] = {}
        self._telling: queue.SimpleQueue[tuple[StorePath, str]] = queue.SimpleQueue()
        self._teller: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def are_wanted(self) -> bool:
        """Whether anybody is to be asked, if there is somebody."""
        return self._addresses.are_named

    @property
    def are_there(self) -> bool:
        """Whether there is anybody to ask; waits for a moment to find out, the first time."""
        return bool(self._addresses.all)

    def look_up(self, path: StorePath) -> Offer | None:
        """Return what a peer says of a path, unverified; None if there is no such peer."""
        for address in self._trackers_of(path.digest):
            with self._benching(address):
                response = self._ask("GET", address, f"narinfo/{path.digest}")
                if response.status != 200:
                    return None
                info = narinfo.parse(response.data, path)
                return Offer(_Peer(self, address, info.nar_size), info)
        return None

    def tell(self, path: StorePath, info: NarInfo | None) -> None:
        """Let the others know what a cache says of a path; nobody waits for it.

        None: they have to ask for themselves, for it is not said to everybody.
        """
        if not self._addresses.all:
            return
        self._telling.put((path, "" if info is None else narinfo.text_of(info)))
        with self._starting:
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell, name="tell", daemon=True)
                self._teller.start()

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
                    except _REFUSALS as error:
                        _logger.info("no use: path=%s peer=%s: %s", info.path, turn.source, error)
                        if not isinstance(error, _Gone):
                            self.bench(turn.source)
                        continue
                turn.is_done = True
                if self._store.is_public(info.path):
                    self._hold(turn.tracker, [info.path.digest])
                return made
        return otherwise()

    def announce(self, paths: Iterable[StorePath]) -> None:
        """Let every peer know which of the paths that fall to it this node has."""
        by_tracker: dict[str, list[str]] = {}
        for path in paths:
            for address in self._trackers_of(path.digest)[:1]:
                by_tracker.setdefault(address, []).append(path.digest)
        for address, digests in by_tracker.items():
            for start in range(0, len(digests), _TOLD_AT_ONCE):
                self._hold(address, digests[start : start + _TOLD_AT_ONCE])

    def open(self, address: str, name: str) -> urllib3.BaseHTTPResponse:
        """Send a GET to a peer and return the response, its body not read; raise Passing."""
        try:
            return self._pool.request(
                "GET", f"http://{address}/{name}", preload_content=False, decode_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise Passing(str(error) or type(error).__name__) from error

    def bench(self, address: str) -> None:
        """Do not ask a peer for a while."""
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
                    self._ask("POST", turn.tracker, f"failure/{info.path.digest}", turn.source)
        finally:
            turn.response.close()

    def _await_turn(self, info: NarInfo, check: Callable[[], None]) -> _Turn | None:
        """Wait for a turn, as long as the path's size allows."""
        latest = time.monotonic() + PATIENCE_SECONDS + info.nar_size / PATIENCE_BYTES_A_SECOND
        while time.monotonic() < latest:
            check()
            tracker = next(iter(self._trackers_of(info.path.digest)), None)
            if tracker is None:
                return None
            with self._benching(tracker):
                name = f"{API}/turn/{info.path.digest}?size={info.nar_size}{self._by('&')}"
                response = self.open(tracker, name)
                source = response.headers.get(SOURCE_HEADER, "")
                if response.status == 200 and (not source or source in self._addresses.all):
                    return _Turn(tracker, source or None, response)
                response.drain_conn()
                if response.status != 202:  # which says that it is nobody's turn yet
                    raise Passing(f"answered {response.status} {source[:100]!a}")
        return None

    def _offer_of(self, info: NarInfo, address: str) -> Offer:
        """Return a path as a peer has it: under a name of our own, not compressed."""
        if self._is_benched(address):
            raise errors.SourceUnreachable("failed a moment ago")
        peer = _Peer(self, address, info.nar_size)
        return Offer(peer, replace(info, url=f"nar/{info.path.basename}.nar", compression="none"))

    def _hold(self, tracker: str, digests: Iterable[str]) -> None:
        """Let a tracker know that this node has some paths, if others can get them here."""
        if self._addresses.own is not None:
            with self._benching(tracker):
                self._ask("POST", tracker, "holdings", "\n".join(digests))

    def _tell(self) -> None:
        """Hand on, one by one, what was told."""
        while True:
            path, text = self._telling.get()
            for address in self._trackers_of(path.digest)[:1]:
                with self._benching(address):
                    self._ask("PUT", address, f"narinfo/{path.basename}", text)

    def _ask(
        self, method: str, address: str, name: str, body: str = ""
    ) -> urllib3.BaseHTTPResponse:
        """Send a small question to a peer; return its answer, read."""
        url = f"http://{address}/{API}/{name}{self._by('?')}"
        response = self._pool.request(method, url, body=body.encode() or None)
        if response.status >= 500:
            raise Passing(f"answered {response.status}")
        return response

    def _by(self, separator: str) -> str:
        """Return the part of a URL that says who asks."""
        own = self._addresses.own
        return "" if own is None else f"{separator}by={own}"

    def _trackers_of(self, digest: str) -> list[str]:
        """Return the peers to ask about a path: those that it falls to, save the benched ones."""
        ranked = addresses.ranked(digest, self._addresses.all)[:_TRACKERS]
        return [each for each in ranked if not self._is_benched(each)]

    def _is_benched(self, address: str) -> bool:
        return time.monotonic() < self._benched.get(address, 0.0)

    @contextlib.contextmanager
    def _benching(self, address: str) -> Iterator[None]:
        """Bench a peer that fails inside, and go on without it."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError, *_REFUSALS) as error:
            _logger.info("peer not asked for a while: peer=%s: %s", address, error)
            self.bench(address)


@dataclass(slots=True)
class _Turn:
    """A turn that `tracker` gave: to take from `source`, or from the origin where it is None."""

    tracker: str
    source: str | None
    response: urllib3.BaseHTTPResponse
    is_done: bool = False


class _Gone(errors.SourceUnreachable):
    """The peer does not have the path, which is nothing against the peer."""


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
        """Open the archive; it has to come at a decent rate."""
        response = self._peers.open(self._address, name)
        try:
            if response.status == 404:
                raise _Gone("has it no more")
            if response.status != 200:
                raise Passing(f"answered {response.status}")
            yield _Paced(response, self._size)
        finally:
            response.close()


class _Paced:
    """The bytes of an archive, as long as they come at a decent rate."""

    def __init__(self, body: urllib3.BaseHTTPResponse, size: int) -> None:
        self._body = body
        self._latest = time.monotonic() + ANSWER_SECONDS + size / PATIENCE_BYTES_A_SECOND

    def read(self, size: int, /) -> bytes:
        if time.monotonic() > self._latest:
            raise Passing("sends too slowly")
        try:
            return self._body.read1(size)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Passing(f"broke off: {error}") from error
