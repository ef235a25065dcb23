"""Collection: garbage found, taken away and deleted, by the daemon or beside it by `cri-proxy gc`.

    1. the runtime lists its containers and pods; while it cannot, nothing is done
    2. a worker plans who goes and who stays                                     store.garbage
    3. the leases of those who go are claimed; whoever is about to use one keeps it
    4. the runtime lists again: whoever used one before 3 is in the list by now
    5. what is still held by nobody is renamed away, and the leases are given up
    6. a worker takes away store paths that no environment has, and deletes it all, slowly

Order of the race with CreateContainer: that one shares the lease before it looks whether the
environment is there, and keeps it until the runtime has answered. If it came first, 3 fails; if 3
came first, it waits and finds the environment gone, or held by nobody. Claims and renames are made
by this process itself, so that its end ends them all. One collection at a time on a node.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.lib import durable
from cri_proxy.lib.workers import Pool
from cri_proxy.maintenance import gcroots
from cri_proxy.maintenance.gcroots import GcRoots
from cri_proxy.model.references import Reference
from cri_proxy.store.disk import garbage, leases
from cri_proxy.store.disk.garbage import CollectionPlan, Fate, PlanRequest, Rules
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

LOCK: Final = "garbage.lock"

T = TypeVar("T")


class Lists(Protocol):
    """Who lists containers and pods: `cri.runtime.Runtime`."""

    async def containers(self) -> Sequence[api_pb2.Container]:
        """Return all containers of all pods, those that have exited too."""
        ...

    async def sandboxes(self) -> Sequence[api_pb2.PodSandbox]:
        """Return the sandboxes of all pods, those that have ended too."""
        ...


@dataclass(frozen=True, slots=True)
class Freed:
    """What a collection did; `spared` went in the plan and were held after all."""

    gone: tuple[Fate, ...]
    spared: tuple[Fate, ...]
    paths: int
    bytes: int


class Collection:
    """Collections below `root`; `pins` says what is pinned at the moment."""

    def __init__(
        self,
        root: Path,
        runtime: Lists,
        jobs: Pool,
        pins: Callable[[], Mapping[Reference, str | None]],
    ) -> None:
        self._root = root
        self._runtime = runtime
        self._jobs = jobs
        self._pins = pins
        self._views = Views(root / "environments", Store(root / "store"))

    async def plan(self, rules: Rules) -> CollectionPlan:
        """Return what `collect` would do. Raises SourceUnreachable when the runtime cannot list."""
        plan, _ = await self._planned(rules)
        return plan

    async def collect(self, rules: Rules, *, unused_seconds: float) -> Freed:
        """Take away what `rules` let go and every store path unused for so long; delete it later.

        Raises SourceUnreachable, and does nothing, when the runtime cannot list its containers,
        StillRealizing while another collection is at work.
        """
        async with self._alone():
            plan, before = await self._planned(rules)
            gone, spared = await self._take_away(plan.going, before)
            paths = await self._jobs.call(garbage.PATHS, unused_seconds)
        return Freed(gone, spared, paths.paths, paths.bytes)

    async def empty(self) -> None:
        """Delete what was taken away, now or before a crash."""
        await self._jobs.call(garbage.EMPTY, None)

    async def _planned(self, rules: Rules) -> tuple[CollectionPlan, GcRoots]:
        who = await self._holders()
        wanted = {str(reference): names for reference, names in who.references.items()}
        request = PlanRequest(who.identities, wanted, rules)
        return await self._jobs.call(garbage.PLAN, request), who

    async def _holders(self) -> GcRoots:
        """Return who holds what now."""
        pods = await self._runtime.sandboxes()
        containers = await self._runtime.containers()
        pins = await asyncio.to_thread(self._pins)
        return gcroots.of_lists(containers, pods).and_pins(pins)

    async def _take_away(
        self, going: Sequence[Fate], before: GcRoots
    ) -> tuple[tuple[Fate, ...], tuple[Fate, ...]]:
        """Rename away what is held by nobody; return what is gone and what was spared."""
        if not going:
            return (), ()
        claimed: dict[str, leases.Lease] = {}
        try:
            self._claim(going, claimed)
            now = await self._holders()
            free = [
                each
                for each in going
                if each.identity in claimed and not now.has(each.identity, each.reference, before)
            ]
            gone = await _finished(asyncio.to_thread(self._rename, free))
        finally:
            for lease in claimed.values():
                lease.release()
        return gone, tuple(each for each in going if each not in gone)

    def _claim(self, going: Sequence[Fate], claimed: dict[str, leases.Lease]) -> None:
        """Claim the leases that nobody shares: two system calls each, none of which waits."""
        for each in going:
            lease = leases.claim(self._views.locate(each.identity))
            if lease is not None:
                claimed[each.identity] = lease

    def _rename(self, free: Sequence[Fate]) -> tuple[Fate, ...]:
        return tuple(each for each in free if self._views.set_aside(each.identity))

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        lock = durable.Lock.acquire(self._root / LOCK)
        if lock is None:
            raise errors.StillRealizing(
                f"garbage is being collected below {self._root} by another process already: "
                "try again in a moment"
            )
        try:
            yield
        finally:
            lock.release()


async def _finished(work: Awaitable[T]) -> T:
    """Return what a thread makes, which is waited for also when the caller is cancelled.

    Leases are given up afterwards, and never before the thread is done with what they guard.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
