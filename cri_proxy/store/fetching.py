"""Fetching: the jobs that bring store paths onto this node; they run in workers.

`survey` walks the closure of some roots, wherever its paths are: those present from their records,
those absent by the narinfos of the caches, many at a time. It reports facts while it goes, so that
downloads start while the closure is still being discovered. `fetch` downloads, decompresses,
unpacks, verifies and commits one path; it is handed what the survey found, and looks again by
itself where that leads nowhere. `recover` and `remove` are the store's own.

A path is believed only if a trusted key has signed its narinfo, which covers hash, size and
references. Both jobs check that: nothing that travels between processes is taken as verified.

A realization may have caches of its own beside the configured ones (`locations`). What comes from
those is reserved: present for realizations that can show the same contents from a cache of theirs,
and for all once a configured cache has it. So one tenant's login opens nothing to another, and a
publisher's key vouches for nothing outside the environments that use the publisher's packages.

Other nodes (`peers`) are asked before the caches, and told what these said, as long as neither had
to be logged in to.

Names of the jobs and the shape of a fact are in `wire`.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cri_proxy import errors
from cri_proxy.lib.steps import Steps
from cri_proxy.lib.worker import Cancelled, Job, Task
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import compression, local, nar, narinfo, signatures
from cri_proxy.store.cache import Offer
from cri_proxy.store.caches import Caches
from cri_proxy.store.local import Stage, Store
from cri_proxy.store.locations import Locations
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.store.peers.asking import Peers
from cri_proxy.store.signatures import Keyring, PublicKey
from cri_proxy.store.wire import FETCH, FIND, RECOVER, REMOVE, SURVEY, Fact

UNPACKING: Final = 2
"""Downloads that decompress, hash and write at the same time in one worker. Many wait for the
network; of those that do not, more than two spend their time handing the interpreter's lock to each
other: with 16 the same gigabyte cost twice the processor time that it cost with two."""

_REPORTED_FACTS: Final = 32
_REPORT_SECONDS: Final = 0.02
_REPORTED_BYTES: Final = 4 * 1024 * 1024
_AWAITED_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 128 * 1024

LookUp = Callable[[StorePath, Callable[[], None]], Offer]
Learn = Callable[[StorePath, Callable[[], None]], tuple[Fact, tuple[StorePath, ...]]]


def jobs(greeting: Mapping[str, Any]) -> dict[str, Job]:
    """Return the jobs for a store, its caches and the keys that are trusted, as settings have them.

    `greeting`: {"directory": path, "caches": [url, ...], "keys": ["name:base64", ...],
    "ca_file": path or None, "connections": how many lookups at a time, "timeout_seconds": how long
    a cache may be silent, "peers": {"names": [name, ...], "listen": address or empty} or not}.
    """
    connections = greeting["connections"]
    ca_file = greeting["ca_file"]
    store = local.Store(Path(greeting["directory"]))
    peers = greeting.get("peers") or {"names": [], "listen": ""}
    fetching = Fetching(
        store,
        Caches(
            greeting["caches"],
            ca_file=None if ca_file is None else Path(ca_file),
            connections=2 * connections,  # lookups and downloads
            silence_seconds=greeting["timeout_seconds"],
        ),
        [signatures.parse_public(key) for key in greeting["keys"]],
        peers=Peers(Addresses(**peers), store, connections=2 * connections),
        lookups=connections,
    )
    return {
        SURVEY: fetching.survey,
        FIND: fetching.find,
        FETCH: fetching.fetch,
        RECOVER: fetching.recover,
        REMOVE: fetching.remove,
    }


class Fetching:
    """The jobs' methods, and what they share; safe for threads."""

    def __init__(
        self,
        store: Store,
        caches: Caches,
        keys: Sequence[PublicKey],
        *,
        peers: Peers,
        lookups: int,
    ) -> None:
        self._store = store
        self._caches = caches
        self._peers = peers
        self._keys = tuple(keys)
        self._keyring = Keyring(self._keys)
        self._lookups = ThreadPoolExecutor(lookups, thread_name_prefix="lookup")
        self._turns = threading.Semaphore(UNPACKING)

    def survey(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """{"roots": [basename], "locations"?} → {"facts": [...]}: the closure, less what was told.

        Raises what `Caches.seek` raises for the first path that cannot be found.
        """
        locations = self._locations_of(argument)
        look_up = self._looker(locations)

        def learn(path: StorePath, check: Callable[[], None]) -> tuple[Fact, tuple[StorePath, ...]]:
            offer = self._from_peers(path) or look_up(path, check)
            info, record = offer.narinfo, self._store.record(path)
            if record is None or not _is_same(record, info) or self._is_shared(offer, locations):
                return _fact_of(info, offer), info.references  # `fetch` looks again, and decides
            return _fact_of(record), record.references

        walk = _Walk(self._store, task, learn, self._lookups)
        return {"facts": walk.run(storepaths.of_basename(each) for each in argument["roots"])}

    def find(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """{"paths": [basename], "locations"?} → {}: caches have each, whatever is present here."""
        look_up = self._looker(self._locations_of(argument))
        paths = [storepaths.of_basename(each) for each in argument["paths"]]
        for _ in self._lookups.map(lambda path: look_up(path, task.check), paths):
            task.check()
        return {}

    def fetch(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """{"path", "cache", "narinfo", "locations"?} → the fact of the path, which is present then.

        Reports {"bytes": so many of the NAR} from time to time. The fact has "steps" (lib.steps).
        """
        steps = Steps()
        path = storepaths.of_basename(argument["path"])
        locations = self._locations_of(argument)
        known = self._caches.offer_of(path, argument["cache"], argument["narinfo"], locations)
        with self._store.stage(path, task.check) as stage:
            record = self._store.record(path)  # a survey's news are old: others fetch, too
            if record is not None and not self._store.is_reserved(path):
                return _fact_of(record) | {"steps": steps.taken}

            def take(offer: Offer) -> NarInfo:
                info = self._trusted(offer, locations).narinfo
                is_shared = self._is_shared(offer, locations)
                if record is not None and _is_same(record, info):
                    if is_shared:
                        stage.share()
                    return record
                if record is not None and not is_shared:
                    raise errors.ContentDamaged(
                        "has other contents than those on this node, which another publisher's "
                        "key vouches for: find out which of the two is right"
                    )
                with steps("store.unpack"):
                    self._bring(offer, stage, task)
                task.check()
                with steps("store.commit"):
                    is_public = is_shared and offer.cache.is_open
                    stage.commit(info, is_reserved=not is_shared, is_public=is_public)
                return info

            def seek() -> NarInfo:
                return self._caches.seek(
                    path, take, check=task.check, known=known, locations=locations
                )

            if known is not None and not (
                known.cache.is_open and self._is_shared(known, locations)
            ):
                brought = seek()
            else:
                told = narinfo.parse(argument["narinfo"].encode(), path)
                brought = self._peers.bring(told, take, seek, task.check)
        return _fact_of(brought) | {"steps": steps.taken}

    def recover(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """{} → {}: the store's directories exist and hold nothing that a crash left."""
        self._store.recover()
        return {}

    def remove(self, argument: dict[str, Any], task: Task) -> dict[str, Any]:
        """{"paths": [basename]} → {"paths": [basename]}: those that are gone."""
        paths = [storepaths.of_basename(each) for each in argument["paths"]]
        return {"paths": [each.basename for each in self._store.remove(paths)]}

    def _locations_of(self, argument: Mapping[str, Any]) -> Locations | None:
        """Return the caches that are this job's own."""
        wires = argument.get("locations")
        return Locations(wires, self._caches.connections, self._keys) if wires else None

    def _from_peers(self, path: StorePath) -> Offer | None:
        """Return what a peer says of a path, if a trusted key has signed that."""
        offer = self._peers.look_up(path)
        if offer is None:
            return None
        try:
            return self._trusted(offer, None)
        except errors.SignatureUntrusted:
            return None  # trusted elsewhere, perhaps: the caches tell what there is for us

    def _looker(self, locations: Locations | None) -> LookUp:
        """Return what finds an offer of a path that a trusted key has signed."""

        def look_up(path: StorePath, check: Callable[[], None]) -> Offer:
            offer = self._caches.seek(
                path,
                lambda offer: self._trusted(offer, locations),
                check=check,
                locations=locations,
            )
            is_public = offer.cache.is_open and self._is_shared(offer, locations)
            self._peers.tell(path, offer.narinfo if is_public else None)
            return offer

        return look_up

    def _trusted(self, offer: Offer, locations: Locations | None) -> Offer:
        """Return the offer if a key that is good for its cache has signed it."""
        own = None if locations is None else locations.keyring_of(offer.cache)
        (own or self._keyring).verify(offer.narinfo)
        return offer

    def _is_shared(self, offer: Offer, locations: Locations | None) -> bool:
        """Whether what is offered is for everybody on the node: a configured cache has it."""
        return locations is None or locations.keyring_of(offer.cache) is None

    def _bring(self, offer: Offer, stage: Stage, task: Task) -> None:
        """Fill the stage from an offer, verifying everything that it promises."""
        info = offer.narinfo
        label = f"{info.path} from {offer.cache.url}"
        with stage.filling(info.nar_size) as tree, offer.open() as body:
            come = body if offer.cache.is_near else _Awaited(body, self._turns, task)
            with self._turns:
                archive = compression.reader_of(come, info.compression, label=label)
                nar.unpack(
                    _Watched(archive, task),
                    tree,
                    nar_size=info.nar_size,
                    nar_hash=info.nar_hash,
                    label=label,
                )


class _Walk:
    """One survey: what has been seen, what is being looked up, what is still to be told."""

    def __init__(self, store: Store, task: Task, learn: Learn, executor: Executor) -> None:
        self._store = store
        self._task = task
        self._learn = learn
        self._executor = executor
        self._frontier: list[StorePath] = []
        self._seen: set[StorePath] = set()
        self._asked: set[Future[tuple[Fact, tuple[StorePath, ...]]]] = set()
        self._answered: queue.SimpleQueue[Future[tuple[Fact, tuple[StorePath, ...]]]] = (
            queue.SimpleQueue()
        )
        self._facts: list[Fact] = []
        self._told_at = time.monotonic()
        self._is_over = False

    def run(self, roots: Iterable[StorePath]) -> list[Fact]:
        """Walk from the roots to the end; return the facts that have not been reported."""
        self._frontier.extend(roots)
        try:
            while self._frontier or self._asked:
                self._check()
                if self._frontier:
                    self._visit(self._frontier.pop())
                else:
                    self._listen()
                self._tell()
        finally:
            self._is_over = True
            for future in self._asked:
                future.cancel()
        return self._facts

    def _visit(self, path: StorePath) -> None:
        """Learn of a path from its record, or ask the caches for it.

        A reserved path is asked for as if it were absent: see the module.
        """
        if path in self._seen:
            return
        self._seen.add(path)
        record = self._store.shared_record(path)
        if record is not None:
            self._frontier.extend(record.references)
            self._facts.append(_fact_of(record))
            return
        future = self._executor.submit(self._learn, path, self._check)
        self._asked.add(future)
        future.add_done_callback(self._answered.put)

    def _listen(self) -> None:
        """Take one answer of a cache, if there is one before something else is due."""
        try:
            future = self._answered.get(timeout=_REPORT_SECONDS)
        except queue.Empty:
            return
        self._asked.discard(future)
        fact, references = future.result()
        self._frontier.extend(references)
        self._facts.append(fact)

    def _tell(self) -> None:
        """Report the new facts when they are many, or have waited long enough."""
        is_due = time.monotonic() - self._told_at >= _REPORT_SECONDS
        if len(self._facts) >= _REPORTED_FACTS or (is_due and self._facts):
            self._task.report({"facts": self._facts})
            self._facts = []
            self._told_at = time.monotonic()

    def _check(self) -> None:
        """Raise Cancelled for lookups of a walk that is over, and when the caller gives up."""
        if self._is_over:
            raise Cancelled
        self._task.check()


class _Awaited:
    """The bytes of an archive from its cache: while one waits for them, others have their turn.

    Much is awaited at a time: threads that hand the turn to each other for every piece of the
    network's spend half of their time on that. For most archives the first time is the only one,
    and before there is a turn to give up.
    """

    def __init__(self, body: nar.Source, turns: threading.Semaphore, task: Task) -> None:
        self._body = body
        self._turns = turns
        self._task = task
        self._pieces = self._next_pieces()

    def read(self, size: int, /) -> bytes:
        if not self._pieces:
            self._turns.release()
            try:
                self._pieces = self._next_pieces()
            finally:
                self._turns.acquire()
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return piece[:size]

    def _next_pieces(self) -> collections.deque[bytes]:
        """Wait for so much, or the end."""
        pieces: collections.deque[bytes] = collections.deque()
        left = _AWAITED_BYTES
        while left > 0 and (piece := self._body.read(min(left, _PIECE_BYTES))):
            self._task.check()
            pieces.append(piece)
            left -= len(piece)
        return pieces


class _Watched:
    """The bytes of a NAR on their way: counted for the caller, who may give up at any piece."""

    def __init__(self, archive: nar.Source, task: Task) -> None:
        self._archive = archive
        self._task = task
        self._bytes = 0
        self._unreported = 0

    def read(self, size: int, /) -> bytes:
        self._task.check()
        piece = self._archive.read(size)
        self._bytes += len(piece)
        self._unreported += len(piece)
        if self._unreported >= _REPORTED_BYTES:
            self._task.report({"bytes": self._bytes})
            self._unreported = 0
        return piece


def _is_same(one: NarInfo, other: NarInfo) -> bool:
    """Whether both describe the same contents and references of one path."""
    return (one.nar_hash, one.references) == (other.nar_hash, other.references)


def _fact_of(info: NarInfo, offer: Offer | None = None) -> Fact:
    """Return what the daemon is told of a path."""
    fact: Fact = {
        "path": info.path.basename,
        "references": [each.basename for each in info.references],
        "nar_size": info.nar_size,
    }
    if offer is not None:
        fact |= {"cache": offer.cache.url, "narinfo": narinfo.text_of(info)}
    return fact
