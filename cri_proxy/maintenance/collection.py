"""Garbage collections: by the daemon, or beside it by `cri-proxy gc`.

    1. the runtime lists its containers and pods; while it cannot, nothing is done
    2. a worker plans which environments to remove                       store.disk.garbage
    3. their leases are claimed; an environment that is about to be used stays
    4. the runtime lists again: containers that were created before 3 are in the list by now
    5. environments still without GC roots are renamed into the garbage; the leases are released
    6. a worker removes store paths that no environment has, and deletes the garbage slowly

The race with CreateContainer: CreateContainer shares the lease before it checks that the
environment exists, and holds it until the runtime has answered. If it comes first, 3 fails; if 3
comes first, it waits, and then finds the environment either gone or unchanged. This process itself
makes claims and renames, so that all of them end with it. A node runs one collection at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cri_proxy import errors
from cri_proxy.cri.runtime import Runtime
from cri_proxy.lib import locks
from cri_proxy.lib.workers import Pool
from cri_proxy.maintenance import gcroots
from cri_proxy.maintenance.gcroots import GcRoots
from cri_proxy.model.references import Reference
from cri_proxy.store.disk import garbage, leases
from cri_proxy.store.disk.garbage import CollectionPlan, Decision, PlanRequest, Rules
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

LOCK: Final = "garbage.lock"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Freed:
    """What a collection did; `spared` were to be removed, but have GC roots after all."""

    gone: tuple[Decision, ...]
    spared: tuple[Decision, ...]
    paths: int
    bytes: int


class Collection:
    """Collections below `root`; `pins` returns the current pins."""

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        pool: Pool,
        pins: Callable[[], Mapping[Reference, str | None]],
    ) -> None:
        self._root = root
        self._runtime = runtime
        self._pool = pool
        self._pins = pins
        self._views = Views(root / "environments", Store(root / "store"))

    async def plan(self, rules: Rules) -> CollectionPlan:
        """Return what `collect` would do. Raises SourceUnreachable if the runtime cannot list."""
        return (await self._planned(rules))[0]

    async def collect(self, rules: Rules, *, unused_seconds: float) -> Freed:
        """Remove what `rules` allow and every store path unused for so long; it is deleted later.

        Raises SourceUnreachable if the runtime cannot list its containers, StillRealizing if
        another collection is running; either way nothing is removed.
        """
        lock = locks.file(self._root / LOCK)
        if lock is None:
            raise errors.StillRealizing(
                f"another garbage collection is running below {self._root}: try again in a moment"
            )
        try:
            plan, before = await self._planned(rules)
            gone, spared = await self._remove(plan.removals, before)
            paths = await self._pool.call(garbage.PATHS, unused_seconds)
        finally:
            lock.release()
        return Freed(gone, spared, paths.paths, paths.bytes)

    async def empty(self) -> None:
        """Delete what was removed, now or before a crash."""
        await self._pool.call(garbage.EMPTY, None)

    async def _planned(self, rules: Rules) -> tuple[CollectionPlan, GcRoots]:
        roots = await self._roots()
        wanted = {str(reference): names for reference, names in roots.references.items()}
        request = PlanRequest(roots.identities, wanted, rules)
        return await self._pool.call(garbage.PLAN, request), roots

    async def _roots(self) -> GcRoots:
        pods = await self._runtime.sandboxes()
        containers = await self._runtime.containers()
        pins = await asyncio.to_thread(self._pins)
        return gcroots.of_lists(containers, pods).with_pins(pins)

    async def _remove(
        self, removals: Sequence[Decision], before: GcRoots
    ) -> tuple[tuple[Decision, ...], tuple[Decision, ...]]:
        """Move environments without GC roots to the garbage; return the removed and the spared."""
        if not removals:
            return (), ()
        claimed: dict[str, locks.Lock] = {}

        def rename(free: Sequence[Decision]) -> tuple[Decision, ...]:
            return tuple(each for each in free if self._views.move_to_garbage(each.identity))

        try:
            for each in removals:  # a few system calls each, none of which blocks
                lease = leases.claim(self._views.locate(each.identity))
                if lease is not None:
                    claimed[each.identity] = lease
            now = await self._roots()
            free = [
                each
                for each in removals
                if each.identity in claimed and not now.keep(each.identity, each.reference, before)
            ]
            gone = await _finished(asyncio.to_thread(rename, free))
        finally:
            for lease in claimed.values():
                lease.release()
        return gone, tuple(each for each in removals if each not in gone)


async def _finished(work: Awaitable[T]) -> T:
    """Await a thread's result; if cancelled, wait for the thread before raising.

    Leases are released afterwards, never before the thread is done with what they protect.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
