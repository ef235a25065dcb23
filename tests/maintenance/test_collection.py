"""The race of a garbage collection with container creation, forced at each of its points."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cri_proxy import errors
from cri_proxy.lib import locks
from cri_proxy.maintenance.collection import LOCK, Collection
from cri_proxy.realizer import holding
from cri_proxy.store.disk import garbage
from cri_proxy.store.disk.garbage import Rules
from cri_proxy.store.disk.local import Store
from tests.maintenance.loops import InProcess, Runtime
from tests.store.disk import nodes

ALL = Rules(grace_seconds=0, wanted_bytes=None)
IDENTITY = "0-acme-web"


async def nothing() -> None:
    """Do nothing while a list is requested."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The only environment of a node."""
    store = Store(tmp_path / "store")
    store.recover()
    views = nodes.views_of(tmp_path, store)
    return views.locate(nodes.realize(views, "web"))


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def collection(tmp_path: Path, place: Path, runtime: Runtime) -> Collection:
    return Collection(tmp_path, runtime, InProcess(garbage.jobs(tmp_path)), dict)


async def collected(collection: Collection) -> tuple[int, int]:
    """Collect; return how many environments were removed and how many spared."""
    freed = await collection.collect(ALL, unused_seconds=0)
    return len(freed.gone), len(freed.spared)


async def test_an_environment_without_gc_roots_is_removed(
    collection: Collection, place: Path
) -> None:
    assert await collected(collection) == (1, 0)
    assert not place.exists()


async def test_a_container_created_after_the_plan_is_seen_by_the_last_check(
    collection: Collection, runtime: Runtime, place: Path
) -> None:
    """It shared its lease and released it before the claim, so it is in the list by then."""

    async def create() -> None:
        runtime.create(IDENTITY)

    runtime.on_list = [nothing, create]

    assert await collected(collection) == (0, 1)
    assert place.exists()


async def test_a_container_that_is_being_created_keeps_its_environment(
    collection: Collection, place: Path
) -> None:
    lease = await holding.environment(place)
    assert lease is not None

    assert await collected(collection) == (0, 1)
    lease.release()
    assert await collected(collection) == (1, 0)


async def test_a_user_that_comes_after_the_claim_waits_and_finds_it_gone(
    collection: Collection, runtime: Runtime, place: Path
) -> None:
    waiting: list[asyncio.Task[Any]] = []

    async def come() -> None:
        waiting.append(asyncio.create_task(holding.environment(place)))
        await asyncio.sleep(2 * holding.CLAIMED_SECONDS)
        assert not waiting[0].done()

    runtime.on_list = [nothing, come]

    assert await collected(collection) == (1, 0)
    async with asyncio.timeout(30):
        assert await waiting[0] is None


async def test_a_user_that_comes_after_a_claim_in_vain_gets_it(
    collection: Collection, runtime: Runtime, place: Path
) -> None:
    waiting: list[asyncio.Task[Any]] = []

    async def come() -> None:
        runtime.create(IDENTITY)
        waiting.append(asyncio.create_task(holding.environment(place)))

    runtime.on_list = [nothing, come]

    assert await collected(collection) == (0, 1)
    async with asyncio.timeout(30):
        lease = await waiting[0]
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("before", [[], [nothing]])
async def test_a_runtime_that_cannot_list_ends_it_with_nothing_removed_and_nothing_claimed(
    collection: Collection,
    runtime: Runtime,
    place: Path,
    before: list[Callable[[], Awaitable[None]]],
) -> None:
    async def fail() -> None:
        raise errors.SourceUnreachable("the runtime is away")

    runtime.on_list = [*before, fail]

    with pytest.raises(errors.SourceUnreachable):
        await collected(collection)
    lease = await holding.environment(place)
    assert lease is not None
    lease.release()


async def test_one_collection_at_a_time(
    collection: Collection, tmp_path: Path, place: Path
) -> None:
    lock = locks.file(tmp_path / LOCK)
    assert lock is not None

    with pytest.raises(errors.StillRealizing):
        await collected(collection)
    lock.release()
    assert await collected(collection) == (1, 0)
