"""The worker jobs that find and fetch store paths.

`survey` finds the closure of some roots: present paths by their records, absent ones by the
narinfos of caches, many at a time. It reports facts while it goes, so that downloads start while
the closure is still being discovered. `fetch` downloads, decompresses, unpacks, verifies and
commits one path; it starts with what the survey found, and looks the path up again if that fails.
`fetch_few` does so for several small paths at a time, with all their requests in flight at once.
Surveys and small paths, which wait for many responses, are coroutines of one event loop, in which
`turns` decides which computes; larger archives have a thread each. `recover` is the store's own.

A path is accepted only if a trusted key has signed its narinfo, which covers hash, size and
references. The fetch checks that before it requests the archive: nothing that travels between
processes counts as verified. A survey does not check the signatures of absent paths, since their
facts only lead to fetches; a survey that accepts a reserved path checks its signature.

A realization may have caches of its own beside the configured ones (`locations`). What comes from
those is reserved: it is present for realizations whose own caches have the same contents, and for
all once a configured cache has it. So one tenant's login opens nothing to another, and the key of a
publisher vouches for nothing outside the environments that use the publisher's packages.

Other nodes (`peers`) are asked before the caches, and get the narinfos that the caches returned, as
long as neither needed a login.

The jobs and what they carry are defined in `store.protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from cri_proxy import errors
from cri_proxy.lib.eventloop import Loop
from cri_proxy.lib.job import Cancelled, Jobs, Task
from cri_proxy.lib.timings import Timing, Timings
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import compression, nar, narinfo, protocol, signatures
from cri_proxy.store.caches import cache
from cri_proxy.store.caches.cache import Cache, Offer
from cri_proxy.store.caches.failover import Caches
from cri_proxy.store.caches.fetcher import Fetcher, Wanted
from cri_proxy.store.caches.locations import Locations
from cri_proxy.store.disk.local import PathStage, Store
from cri_proxy.store.fetch.archives import Awaited, Watched
from cri_proxy.store.fetch.traversal import Learned, Walk, fact_of
from cri_proxy.store.fetch.turns import Turns
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.store.peers.asking import Peers
from cri_proxy.store.protocol import (
    Fact,
    Fetch,
    Fetched,
    FetchFailed,
    FetchFew,
    Find,
    StoreOptions,
    Survey,
)
from cri_proxy.store.signatures import Keyring

UNPACKING: Final = 2
"""Downloads that decompress, hash and write at the same time in one worker. Many wait for the
network; of those that do not, more than two spend their time handing the interpreter's lock to each
other: with 16 the same gigabyte cost twice the processor time that it cost with two."""

_REPORT_SECONDS: Final = 0.02

A = TypeVar("A", Survey, FetchFew)
P = TypeVar("P")
R = TypeVar("R")
V = TypeVar("V")


def jobs(options: StoreOptions, loop: Loop | None = None) -> Jobs:
    """Return the jobs for a store, its caches and the keys that are trusted."""
    fetching = Fetching(options, loop or Loop())
    return Jobs(
        protocol.SURVEY.started_by(fetching.in_loop(fetching.survey)),
        protocol.FIND.run_by(fetching.find),
        protocol.FETCH.run_by(fetching.fetch),
        protocol.FETCH_FEW.started_by(fetching.in_loop(fetching.fetch_few)),
        protocol.RECOVER.run_by(fetching.recover),
    )


class Fetching:
    """The jobs' methods, and what they share; safe for threads."""

    def __init__(self, options: StoreOptions, loop: Loop) -> None:
        self._store = Store(options.directory)
        self._caches = Caches(
            options.caches,
            ca_file=options.ca_file,
            connections=2 * options.node_connections,  # a survey and downloads
            silence_seconds=options.timeout_seconds,
            loop=loop,
        )
        self._peers = Peers(
            Addresses(options.peers.names, options.peers.listen),
            self._store,
            connections=2 * options.connections,
            loop=loop,
        )
        self._keys = [signatures.parse_public(key) for key in options.keys]
        self._keyring = Keyring(self._keys)
        self._lookups = ThreadPoolExecutor(options.connections, thread_name_prefix="lookup")
        self._unpacking = threading.Semaphore(UNPACKING)
        self._loop = loop
        self._turns = Turns()

    def in_loop(
        self, job: Callable[[A, Task[P], Fetcher[StorePath, V]], Coroutine[Any, Any, R]]
    ) -> Callable[[A, Task[P]], Future[R]]:
        """Return what begins `job` in the event loop, with a fetcher of `width` files at a time."""

        async def run(argument: A, task: Task[P]) -> R:
            running, loop = asyncio.current_task(), asyncio.get_running_loop()
            assert running is not None
            task.on_cancel(lambda: loop.call_soon_threadsafe(running.cancel))
            files = Fetcher[StorePath, V](argument.width, self._lookups)
            try:
                return await job(argument, task, files)
            except asyncio.CancelledError:
                raise Cancelled from None
            finally:
                files.close()

        return lambda argument, task: self._loop.submit(run(argument, task))

    async def survey(
        self, argument: Survey, task: Task[list[Fact]], files: Fetcher[StorePath, Learned]
    ) -> list[Fact]:
        """Find the closure; raise what `Caches.seek` raises for the first absent path."""
        locations = self._locations_of(argument)
        has_peers = await self._has_peers()

        def learn(offer: Offer) -> Learned:
            info, record = offer.narinfo, self._store.record(offer.narinfo.path)
            if record is None or not _is_same(record, info) or self._is_shared(offer, locations):
                return fact_of(info, offer), info.references  # `fetch` looks again, and decides
            self._trusted(offer, locations)
            return fact_of(record), record.references

        def wanted_of(path: StorePath) -> Wanted[StorePath, Learned]:
            sources = () if has_peers else self._caches.in_order(path, locations)
            return Wanted(
                path,
                sources,
                cache.name_of(path),
                use=lambda source, text: learn(source.offer_of(path, text)),
                fallback=lambda check: learn(
                    self._from_peers(path) or self._look_up(path, locations, check)
                ),
            )

        walk = Walk(
            self._store,
            task,
            files,
            wanted_of=wanted_of,
            prepare=lambda: self._caches.greet(self._lookups),
            turn=lambda: self._turns.take(is_urgent=True),
        )
        return await walk.run([storepaths.of_basename(each) for each in argument.roots])

    def find(self, argument: Find, task: Task[None]) -> None:
        """Make sure that caches have each path, even those that are present here."""
        locations = self._locations_of(argument)
        paths = [storepaths.of_basename(each) for each in argument.paths]
        for _ in self._lookups.map(lambda path: self._look_up(path, locations, task.check), paths):
            task.check()

    def fetch(self, argument: Fetch, task: Task[int]) -> Fetched:
        """Bring one path here, unless it has arrived since the survey."""
        timings = Timings()
        path = storepaths.of_basename(argument.path)
        locations = self._locations_of(argument)
        found = argument.found
        known = self._caches.offer_of(path, found.cache, found.narinfo, locations)
        with self._store.stage(path, task.check) as stage:
            record = self._store.record(path)  # a survey's news are old: others fetch, too
            if record is not None and not self._store.is_reserved(path):
                return Fetched(fact_of(record), timings.taken)

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
                with timings("store.unpack"):
                    self._bring(offer, stage, task)
                task.check()
                with timings("store.commit"):
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
                told = narinfo.parse(found.narinfo.encode(), path)
                brought = self._peers.bring(told, take, seek, task.check)
        return Fetched(fact_of(brought), timings.taken)

    async def fetch_few(
        self,
        argument: FetchFew,
        task: Task[list[Fetched | FetchFailed]],
        files: Fetcher[StorePath, Fetched],
    ) -> list[Fetched | FetchFailed]:
        """Bring small paths here, one in each turn; one that fails does not end the others."""
        has_peers = await self._has_peers()
        ended: list[Fetched | FetchFailed] = []
        reported_at = time.monotonic()
        with contextlib.ExitStack() as held:
            for each in argument.paths:
                await self._turns.take()
                task.check()
                files.ask(self._wanted_of_few(each, held, task, has_peers=has_peers))
            while files.is_asking:
                await files.arrival(_REPORT_SECONDS if ended else None)
                await self._turns.take()
                task.check()
                for wanted, outcome in files.outcomes(at_most=1):
                    ended.append(_end_of(wanted.key, outcome))
                if ended and time.monotonic() - reported_at >= _REPORT_SECONDS:
                    task.report(ended)
                    ended, reported_at = [], time.monotonic()
        return ended

    def _wanted_of_few(
        self,
        argument: Fetch,
        held: contextlib.ExitStack,
        task: Task[list[Fetched | FetchFailed]],
        *,
        has_peers: bool,
    ) -> Wanted[StorePath, Fetched]:
        """Return the archive of one path to fetch; the path is locked unless another job has it."""
        path, found = storepaths.of_basename(argument.path), argument.found
        begun = time.time_ns()
        holding = held.enter_context(contextlib.ExitStack())
        stage = holding.enter_context(self._store.try_stage(path))

        def fetch(check: Callable[[], None]) -> Fetched:
            holding.close()
            return self.fetch(argument, _Part(task, check))

        known = self._caches.offer_of(path, found.cache, found.narinfo)
        is_present = self._store.record(path) is not None  # perhaps reserved
        is_direct = not (is_present or has_peers)
        if stage is None or known is None or not is_direct or not self._is_trusted(known):
            return Wanted(path, (), "", use=_never, fallback=fetch)
        offer, place, info = known, stage, known.narinfo

        def use(source: Cache, data: bytes) -> Fetched:
            task.check()
            label = f"{path} from {source.url}"
            with place.tree(info.nar_size) as tree:
                archive = compression.reader_of(io.BytesIO(data), info.compression, label=label)
                nar.unpack(
                    archive, tree, nar_size=info.nar_size, nar_hash=info.nar_hash, label=label
                )
            unpacked = time.time_ns()
            place.commit(info, is_public=offer.cache.is_open)
            holding.close()
            timings: list[Timing] = [
                ("store.unpack", begun, unpacked),
                ("store.commit", unpacked, time.time_ns()),
            ]
            return Fetched(fact_of(info), timings)

        return Wanted(path, (offer.cache,), info.url, use=use, fallback=fetch)

    def recover(self, argument: None, task: Task[None]) -> None:
        """Make sure that the store's directories exist and hold nothing that a crash left."""
        self._store.recover()

    def _locations_of(self, argument: Survey | Find | Fetch) -> Locations | None:
        if not argument.locations:
            return None
        return Locations(argument.locations, self._caches.client, self._keys)

    async def _has_peers(self) -> bool:
        if not self._peers.are_wanted:
            return False
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lookups, lambda: self._peers.are_there)

    def _from_peers(self, path: StorePath) -> Offer | None:
        offer = self._peers.look_up(path)
        return offer if offer is not None and self._is_trusted(offer) else None

    def _look_up(
        self, path: StorePath, locations: Locations | None, check: Callable[[], None]
    ) -> Offer:
        offer = self._caches.seek(
            path, lambda offer: self._trusted(offer, locations), check=check, locations=locations
        )
        is_public = offer.cache.is_open and self._is_shared(offer, locations)
        self._peers.tell(path, offer.narinfo if is_public else None)
        return offer

    def _is_trusted(self, offer: Offer) -> bool:
        """Return whether a key that the settings trust has signed an offer."""
        try:
            self._keyring.verify(offer.narinfo)
        except errors.SignatureUntrusted:
            return False
        return True

    def _trusted(self, offer: Offer, locations: Locations | None) -> Offer:
        """Return the offer if a key that is good for its cache has signed it."""
        own = None if locations is None else locations.keyring_of(offer.cache)
        (own or self._keyring).verify(offer.narinfo)
        return offer

    def _is_shared(self, offer: Offer, locations: Locations | None) -> bool:
        """Return whether an offer is for all pods of the node: a configured cache has it."""
        return locations is None or locations.keyring_of(offer.cache) is None

    def _bring(self, offer: Offer, stage: PathStage, task: Task[int]) -> None:
        """Fill the stage from an offer, verifying everything that it promises."""
        info = offer.narinfo
        label = f"{info.path} from {offer.cache.url}"
        with stage.tree(info.nar_size) as tree, offer.open() as body:
            come = body if offer.cache.is_near else Awaited(body, self._unpacking, task)
            with self._unpacking:
                archive = compression.reader_of(come, info.compression, label=label)
                nar.unpack(
                    Watched(archive, task),
                    tree,
                    nar_size=info.nar_size,
                    nar_hash=info.nar_hash,
                    label=label,
                )


class _Part(Task[int]):
    """A task that is part of another one, and ends with it or when `check` raises."""

    def __init__(self, whole: Task[list[Fetched | FetchFailed]], check: Callable[[], None]) -> None:
        super().__init__(lambda count: None)
        self._whole = whole
        self._check = check

    def check(self) -> None:
        """Raise Cancelled when the caller has given up."""
        self._whole.check()
        self._check()


def _end_of(path: StorePath, outcome: Fetched | BaseException) -> Fetched | FetchFailed:
    """Return how a path ended; raise an exception that is a fault of our own."""
    if isinstance(outcome, errors.CriProxyError):
        return FetchFailed(path.basename, errors.to_wire(outcome))
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _never(source: Cache, data: bytes) -> Fetched:
    raise AssertionError("a file without a place has nothing to use")


def _is_same(one: NarInfo, other: NarInfo) -> bool:
    return (one.nar_hash, one.references) == (other.nar_hash, other.references)
