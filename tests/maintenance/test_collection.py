"""The race of a collection with containers that are being created, forced at each of its points."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.lib import codec, durable
from cri_proxy.lib.job import Job, Task
from cri_proxy.maintenance.collection import LOCK, Collection
from cri_proxy.realizer import holding
from cri_proxy.store.disk import garbage
from cri_proxy.store.disk.garbage import Rules
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")
ALL = Rules(grace_seconds=0, wanted_bytes=None)
IDENTITY = "0-acme-web"


class Runtime:
    """A runtime's lists; `on_list` are run, one each time containers are listed."""

    def __init__(self) -> None:
        self.listed: list[api_pb2.Container] = []
        self.on_list: list[Callable[[], Awaitable[None]]] = []

    async def containers(self) -> Sequence[api_pb2.Container]:
        if self.on_list:
            await self.on_list.pop(0)()
        return list(self.listed)

    async def sandboxes(self) -> Sequence[api_pb2.PodSandbox]:
        return []

    def create(self) -> None:
        """Have a container of the environment."""
        self.listed.append(
            api_pb2.Container(annotations={adjustment.IDENTITY_ANNOTATION: IDENTITY})
        )


class Here:
    """Runs the jobs in this process; what they carry is encoded as on the way to a worker."""

    def __init__(self, root: Path) -> None:
        self._jobs = garbage.jobs(root)

    async def call(self, job: Job[A, P, R], argument: A) -> R:
        received = codec.decode(codec.encode(argument), job.argument)
        result = self._jobs[job](received, Task(lambda report: None))
        return codec.decode(codec.encode(result), job.result)


async def nothing() -> None:
    """Let a list be what it is."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The one environment of a node."""
    store = Store(tmp_path / "store")
    store.recover()
    views = Views(tmp_path / "environments", store)
    views.recover()
    flox_env = "7ik8057hajl6vq9j40h3jracxjn0bb5x-environment-run"
    with views.stage(IDENTITY, lambda: None) as stage:
        (stage.store / flox_env).mkdir()
        record = {
            "format": 1,
            "identity": IDENTITY,
            "reference": "acme/web:1",
            "revision": "0" * 40,
            "lockDigest": "1" * 64,
            "system": "x86_64-linux",
            "mode": "run",
            "floxEnv": f"/nix/store/{flox_env}",
            "shell": None,
            "variables": [],
            "closure": [flox_env],
            "narBytes": 1,
            "realizedAt": 1.0,
            "certificates": None,
            "localeArchive": None,
        }
        (stage.directory / "environment.json").write_text(json.dumps(record))
        stage.commit()
    return views.locate(IDENTITY)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def collection(tmp_path: Path, place: Path, runtime: Runtime) -> Collection:
    return Collection(tmp_path, runtime, Here(tmp_path), dict)


async def collected(collection: Collection) -> tuple[int, int]:
    """Collect; return how many environments are gone and how many were spared."""
    freed = await collection.collect(ALL, unused_seconds=0)
    return len(freed.gone), len(freed.spared)


async def test_what_nobody_holds_is_gone(collection: Collection, place: Path) -> None:
    assert await collected(collection) == (1, 0)
    assert not place.exists()


async def test_a_container_created_after_the_plan_is_seen_by_the_last_look(
    collection: Collection, runtime: Runtime, place: Path
) -> None:
    """It shared its lease and released it before the claim, so it is in the list by then."""

    async def create() -> None:
        runtime.create()

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


async def test_who_comes_after_the_claim_waits_and_finds_it_gone(
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


async def test_who_comes_after_the_claim_of_what_stays_gets_it(
    collection: Collection, runtime: Runtime, place: Path
) -> None:
    waiting: list[asyncio.Task[Any]] = []

    async def come() -> None:
        runtime.create()
        waiting.append(asyncio.create_task(holding.environment(place)))

    runtime.on_list = [nothing, come]

    assert await collected(collection) == (0, 1)
    async with asyncio.timeout(30):
        lease = await waiting[0]
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("before", [[], [nothing]])
async def test_a_runtime_that_cannot_list_ends_it_with_nothing_gone_and_nothing_claimed(
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
    lock = durable.Lock.acquire(tmp_path / LOCK)
    assert lock is not None

    with pytest.raises(errors.StillRealizing):
        await collected(collection)
    lock.release()
    assert await collected(collection) == (1, 0)
