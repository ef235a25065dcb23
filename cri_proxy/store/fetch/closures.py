"""Closures: the daemon's side of fetching, which brings all paths of an environment here.

`Closures.realize` starts a survey of the closure of its roots in a worker and, while the survey
still runs, fetches the absent paths: the largest of those known first, for the last to arrive is
what a pod waits for. Small ones go several to a job, which costs as much as fetching one of them.
At most `connections` are under way at a time, for all realizations together, and a path that
several want is fetched once for all of them.

The first failure ends a realization; what it alone wanted is cancelled, what others want as well
goes on. Paths that have arrived stay, so the next attempt has less to do. Everything that takes
time happens in the jobs of `fetch.jobs`; here only facts are counted and passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cri_proxy import errors
from cri_proxy.lib import meters, singleflight
from cri_proxy.lib.workers import Pool
from cri_proxy.model import storepaths
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import protocol
from cri_proxy.store.protocol import (
    Fact,
    Fetch,
    Fetched,
    FetchFailed,
    FetchFew,
    Find,
    Survey,
)
from cri_proxy.telemetry import spans

CONNECTIONS: Final = 32
# A path has a span of its own when it is large or slow, and the slowest of those only.
SPAN_BYTES: Final = 8 * 1024 * 1024
SPAN_SECONDS: Final = 0.25
SPANS_AT_MOST: Final = 32

_paths = meters.counter("cri_proxy_fetched_paths_total", "Store paths that were fetched.")
_bytes = meters.counter("cri_proxy_fetched_size_bytes_total", "Unpacked size of fetched paths.")

SMALL_BYTES: Final = 1024 * 1024
"""Largest archive that is fetched together with others."""
_SMALL_NAR_BYTES: Final = 4 * SMALL_BYTES
_TOGETHER: Final = 8
"""Small paths in a job. Fewer cost more messages; with more, one worker has much left at the end:
300 paths take 0.33 s with 4 in a job, 0.30 with 8, 0.32 with 16, 0.35 with 32."""

_FEW: Final = 8
_MANY_BYTES: Final = 32 * 1024 * 1024
_WEIGHT_BYTES: Final = 128 * 1024
_SURVEY_WEIGHT: Final = 24
"""Everything else waits for what a survey finds, so its worker gets little else to do."""

OnFacts = Callable[[list[Fact]], None]
OnEnds = Callable[[list[Fetched | FetchFailed]], None]
OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PathRecord:
    """A path that is present, as other floors need it; `references` may hold the path itself."""

    path: StorePath
    references: tuple[StorePath, ...]
    nar_size: int


class ClosureSource(Protocol):
    """A source of closures: `Closures`, or `nix.closures.NixClosures`."""

    def prepare(self) -> None:
        """Start workers: there may be a closure to realize in a moment."""
        ...

    async def recover(self) -> None:
        """Make it ready; once, before anything is realized."""
        ...

    async def realize(
        self,
        roots: Iterable[StorePath],
        progress: Progress,
        places: Sequence[Location] = (),
    ) -> tuple[PathRecord, ...]:
        """Return the closure of `roots`, sorted, when all of it is present."""
        ...

    async def find(self, paths: Iterable[StorePath], places: Sequence[Location] = ()) -> None:
        """Make sure that all of `paths` are present or in a cache."""
        ...

    async def aclose(self) -> None:
        """Cancel everything that is under way."""
        ...


class Closures:
    """All realizations of one daemon; belongs to one event loop."""

    def __init__(self, pool: Pool, *, connections: int = CONNECTIONS) -> None:
        self._pool = pool
        self._connections = connections
        self._surveys = 0
        self._slots = _Slots(connections)
        self._flights: singleflight.Flights[_Batch, None] = singleflight.Flights(is_lasting=False)
        self._batches: dict[tuple[str, _OwnLocations | None], _Batch] = {}

    def prepare(self) -> None:
        """Start workers: there may be a closure to realize in a moment."""
        self._pool.warm()

    async def recover(self) -> None:
        """Make the store ready; once, before anything is realized."""
        await self._pool.call(protocol.RECOVER, None)

    async def realize(
        self,
        roots: Iterable[StorePath],
        progress: Progress,
        places: Sequence[Location] = (),
    ) -> tuple[PathRecord, ...]:
        """Return the closure of `roots`, sorted, when all of it is present.

        `places` are locations beside the configured caches, with their logins. Raises NotFound,
        SignatureUntrusted, ContentDamaged, SourceUnreachable or NodeExhausted for the first path
        that cannot be had.
        """
        progress.phase = Phase.FETCHING
        progress.fetching_since = time.monotonic()
        self.prepare()  # the survey needs one worker, what it finds will need all
        own = _OwnLocations(tuple(places))
        return await _Realization(self, progress, own).run(roots)

    async def find(self, paths: Iterable[StorePath], places: Sequence[Location] = ()) -> None:
        """Make sure that caches have all of `paths`, present or not; raise as `realize` does."""
        names = tuple(sorted(each.basename for each in paths))
        await self._pool.call(protocol.FIND, Find(names, tuple(places)))

    async def aclose(self) -> None:
        """Cancel everything that is under way."""
        await self._flights.aclose()

    async def survey(self, roots: Iterable[str], on_facts: OnFacts, own: _OwnLocations) -> None:
        """Survey a closure; `on_facts` gets the facts of all its paths, some at a time.

        Everything waits for what a survey finds: one that is alone has as many connections as all
        downloads together, one of several its share.
        """
        self._surveys += 1
        try:
            width = max(1, self._connections // self._surveys)
            rest = await self._pool.call(
                protocol.SURVEY,
                Survey(tuple(sorted(roots)), width, own.locations),
                on_progress=on_facts,
                weight=_SURVEY_WEIGHT,
            )
        finally:
            self._surveys -= 1
        on_facts(rest)

    def batches_of(self, facts: Sequence[Fact], own: _OwnLocations) -> dict[_Batch, list[Fact]]:
        """Return which batches fetch which of these absent paths: running batches, and new ones.

        The caller must join them at once, with `join`.
        """
        found: dict[_Batch, list[Fact]] = {}
        small: _Batch | None = None
        for fact in facts:
            needed = own if fact.found and fact.found.cache in own.urls else None
            batch = self._batches.get((fact.path, needed))
            if batch is None:
                if needed is not None or not _is_small(fact):
                    batch = _Batch(needed, is_alone=True)
                elif small is None or len(small.facts) == _TOGETHER:
                    batch = small = _Batch()
                else:
                    batch = small
                self._batches[fact.path, needed] = batch
                batch.facts.append(fact)
            found.setdefault(batch, []).append(fact)
        return found

    async def join(self, batch: _Batch, on_ends: OnEnds, on_bytes: OnBytes) -> None:
        """Fetch a batch; `on_ends` gets how its paths ended, as they arrive or fail.

        `on_bytes` gets how much has arrived of a path that is alone in its batch.
        """
        listener = (on_ends, on_bytes)
        batch.listeners.add(listener)
        try:
            on_ends(batch.ended)
            if len(batch.ended) == len(batch.facts):
                return
            await self._flights.fly(batch, lambda: self._fetch(batch))
        finally:
            batch.listeners.discard(listener)
            if not batch.listeners:
                self._forget(batch)

    async def _fetch(self, batch: _Batch) -> None:
        """Fetch the paths of a batch, which holds a slot for each until that one has arrived."""
        locations = () if batch.own is None else batch.own.locations
        paths = tuple(Fetch(each.path, each.found, locations) for each in batch.facts if each.found)
        size = sum(fact.nar_size for fact in batch.facts)
        weight = sum(_weight_of(fact) for fact in batch.facts)

        def take(ended: list[Fetched | FetchFailed]) -> None:
            arrived = [each.fact.nar_size for each in ended if isinstance(each, Fetched)]
            _paths.add(len(arrived))
            _bytes.add(sum(arrived))
            batch.publish(ended)

        try:
            async with self._slots.hold(len(batch.facts), size=size) as held:

                def on_ended(ended: list[Fetched | FetchFailed]) -> None:
                    take(ended)
                    held.keep(len(batch.facts) - len(batch.ended))

                batch.begun = time.time_ns()
                rest: list[Fetched | FetchFailed]
                if batch.is_alone:
                    fetched = await self._pool.call(
                        protocol.FETCH, paths[0], on_progress=batch.count, weight=weight
                    )
                    rest = [fetched]
                else:
                    few = FetchFew(paths, held.count)
                    rest = await self._pool.call(
                        protocol.FETCH_FEW, few, on_progress=on_ended, weight=weight
                    )
            take(rest)
        finally:
            self._forget(batch)

    def _forget(self, batch: _Batch) -> None:
        """Let no realization join a batch any more."""
        for fact in batch.facts:
            if self._batches.get((fact.path, batch.own)) is batch:
                del self._batches[fact.path, batch.own]


@dataclass(slots=True, eq=False)
class _Batch:
    """Paths that are fetched by one job, and how those that have ended did.

    They are small ones of the configured caches, or one that is large or needs `own` locations.
    """

    own: _OwnLocations | None = None
    is_alone: bool = False
    begun: int = 0
    facts: list[Fact] = field(default_factory=list)
    ended: list[Fetched | FetchFailed] = field(default_factory=list)
    listeners: set[tuple[OnEnds, OnBytes]] = field(default_factory=set)

    def publish(self, ended: list[Fetched | FetchFailed]) -> None:
        """Pass on what the job has reported."""
        self.ended.extend(ended)
        for on_ends, _ in tuple(self.listeners):
            on_ends(ended)

    def count(self, arrived: int) -> None:
        """Pass on how many bytes have arrived."""
        for _, on_bytes in tuple(self.listeners):
            on_bytes(arrived)


class _OwnLocations:
    """The locations of one realization, which are never another one's, even if they are equal."""

    def __init__(self, locations: tuple[Location, ...]) -> None:
        self.locations = locations
        self.urls = frozenset(protocol.url_of(each) for each in locations)


@dataclass(slots=True, eq=False)
class _Realization:
    """One closure on its way: what is known of it and what has arrived, by basename."""

    _closures: Closures
    _progress: Progress
    _own: _OwnLocations
    _paths: dict[str, StorePath] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _referenced: set[str] = field(default_factory=set)
    _records: dict[str, PathRecord] = field(default_factory=dict)
    _fetched: list[_Download] = field(default_factory=list)
    _group: asyncio.TaskGroup = field(init=False)
    _is_failing: bool = False

    async def run(self, roots: Iterable[StorePath]) -> tuple[PathRecord, ...]:
        """Survey and fetch until every reference of every path is present.

        One round is the rule; another follows if a cache that stood in for a failing one had the
        path with other references than the survey found.
        """
        wanted = {each.basename for each in roots}
        while wanted:
            try:
                async with asyncio.TaskGroup() as self._group:
                    with spans.span("store.survey"):
                        await self._closures.survey(wanted, self._learn, self._own)
            except BaseExceptionGroup as group:
                first: BaseException = group  # the others follow from it
                while isinstance(first, BaseExceptionGroup):
                    first = first.exceptions[0]
                raise first from None
            finally:
                self._record_spans()
            wanted = self._referenced - self._records.keys()
        return tuple(self._records[name] for name in sorted(self._records))

    def _learn(self, facts: list[Fact]) -> None:
        progress = self._progress
        absent = []
        for fact in facts:
            if fact.path in self._known or self._is_failing:
                continue
            self._known.add(fact.path)
            progress.paths_total += 1
            progress.bytes_total += fact.nar_size
            if fact.found is None:
                progress.paths_present += 1
                progress.bytes_present += fact.nar_size
                self._arrived(fact, counted=0)
            else:
                absent.append(fact)
        for batch, wanted in self._closures.batches_of(absent, self._own).items():
            self._group.create_task(self._fetch(batch, wanted))

    async def _fetch(self, batch: _Batch, facts: Sequence[Fact]) -> None:
        """Fetch some paths, which are among those of a batch."""
        wanted = {fact.path: fact.nar_size for fact in facts}
        joined, counted = time.time_ns(), 0

        def on_bytes(count: int) -> None:
            nonlocal counted
            self._progress.bytes_done += count - counted
            counted = count

        def on_ends(ended: list[Fetched | FetchFailed]) -> None:
            for each in ended:
                if isinstance(each, FetchFailed):
                    if each.path in wanted:
                        self._fail(errors.of_wire(each.error))
                        return
                elif (size := wanted.pop(each.fact.path, None)) is not None:
                    begun = max(joined, batch.begun)
                    self._fetched.append(_Download(each, begun, time.time_ns()))
                    self._progress.bytes_total += each.fact.nar_size - size
                    self._arrived(each.fact, counted)

        try:
            await self._closures.join(batch, on_ends, on_bytes)
        except BaseException:
            self._is_failing = True  # the group takes no more tasks
            raise

    def _fail(self, error: errors.CriProxyError) -> None:
        """End the realization; the batch goes on, for others may want the rest of it."""
        if self._is_failing:
            return
        self._is_failing = True

        async def fail() -> None:
            raise error

        self._group.create_task(fail())

    def _arrived(self, fact: Fact, counted: int) -> None:
        """Record a path that is present; `counted` of its bytes are in the progress already."""
        self._progress.paths_done += 1
        self._progress.bytes_done += fact.nar_size - counted
        self._referenced.update(fact.references)
        self._records[fact.path] = PathRecord(
            self._path_of(fact.path),
            tuple(self._path_of(each) for each in fact.references),
            fact.nar_size,
        )

    def _record_spans(self) -> None:
        """Record the paths that were fetched: the large and slow ones as spans, the rest as a sum.

        A span begins with the download; the time that a path waited for a slot is not in it.
        """
        fetched, self._fetched = self._fetched, []
        fetched.sort(key=lambda each: each.start - each.end)
        notable = [each for each in fetched if each.is_notable][:SPANS_AT_MOST]
        for each in notable:
            attributes: dict[str, str | int] = {
                "cri_proxy.path": each.fact.path,
                "cri_proxy.bytes": each.fact.nar_size,
            }
            span = spans.record(("store.fetch_path", each.start, each.end), **attributes)
            spans.replay(each.timings, span)
        rest = [each for each in fetched if each not in notable]
        if rest:
            spans.annotate(
                **{
                    "cri_proxy.rest.paths": len(rest),
                    "cri_proxy.rest.bytes": sum(each.fact.nar_size for each in rest),
                    "cri_proxy.rest.seconds": sum(each.seconds for each in rest),
                }
            )

    def _path_of(self, basename: str) -> StorePath:
        """Return the path of a basename: the same few are referenced again and again."""
        path = self._paths.get(basename)
        if path is None:
            path = self._paths[basename] = storepaths.of_basename(basename)
        return path


class _Download:
    """A path that was fetched, and when; another realization may have begun it earlier."""

    __slots__ = ("end", "fact", "start", "timings")

    def __init__(self, fetched: Fetched, begun: int, end: int) -> None:
        self.fact = fetched.fact
        self.timings = fetched.timings
        self.start = max(begun, min((start for _, start, _ in self.timings), default=begun))
        self.end = end

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9

    @property
    def is_notable(self) -> bool:
        return self.fact.nar_size >= SPAN_BYTES or self.seconds >= SPAN_SECONDS


def _weight_of(fact: Fact) -> int:
    """Return how much work a path is: a constant for any, and more the larger it is."""
    return 1 + fact.nar_size // _WEIGHT_BYTES


def _is_small(fact: Fact) -> bool:
    if fact.found is None or fact.found.file_size is None:
        return False
    return fact.found.file_size <= SMALL_BYTES and fact.nar_size <= _SMALL_NAR_BYTES


class _Slots:
    """A bounded number of slots; the waiter with the largest size is next.

    What is in the slots is bounded in size as well, save for a few: enough to keep network and
    workers busy, and not so much that at the end one worker has much left and the others nothing.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._used = 0
        self._bytes = 0
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def hold(self, wanted: int, *, size: int) -> AsyncIterator[_Held]:
        """Hold as many slots as are wanted, or all."""
        # Not even the first comer goes at once: facts come many at a time, and the largest of
        # them is known only when all have been counted.
        count = min(wanted, self._count)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-size, next(self._order), count, turn))
        asyncio.get_running_loop().call_soon(self._grant)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(count, size)
            raise
        held = _Held(self, count, size)
        try:
            yield held
        finally:
            held.keep(0)

    def _grant(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][2]):
            size, _, count, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._free -= count
                self._used += count
                self._bytes -= size
                turn.set_result(None)

    def _has_room(self, count: int) -> bool:
        return self._free >= count and (self._used < _FEW or self._bytes < _MANY_BYTES)

    def release(self, count: int, size: int) -> None:
        """Release slots, and so many bytes of what was in them."""
        self._free += count
        self._used -= count
        self._bytes -= size
        self._grant()


@dataclass(slots=True)
class _Held:
    """Slots that are held, and what is in them, some of which may be given back early."""

    _slots: _Slots
    count: int
    _size: int

    def keep(self, count: int) -> None:
        """Release all but `count` slots."""
        spare = self.count - max(0, count)
        if spare > 0:
            size = self._size * spare // self.count
            self.count -= spare
            self._size -= size
            self._slots.release(spare, size)
