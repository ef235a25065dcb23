"""Writable /nix: created for a container, kept while it is listed, removed after it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import adjustment
from cri_proxy.interposer.mutability import Mutability
from cri_proxy.lib.job import Job
from cri_proxy.store.disk import overlays
from hack.testbed.fake_runtime import FakeRuntime
from tests.interposer.conftest import RecordedCall

LIST = methods.path_of("ListContainers")
DEADLINE = 60


class Pool:
    """Does without root what the workers' jobs do: makes and removes the directories."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "mutable"
        self.removed = asyncio.Event()
        self.is_failing = False

    async def call(
        self, job: Job[Any, object, object], argument: overlays.OverlayRequest | list[str]
    ) -> None:
        if self.is_failing:
            raise errors.NodeExhausted("disk full")
        if job is overlays.MAKE:
            (self.directory / argument.token / "store").mkdir(parents=True)
        else:
            for token in argument:
                shutil.rmtree(self.directory / token)
                (self.directory / f"{token}.lock").unlink(missing_ok=True)
            self.removed.set()

    @property
    def present(self) -> list[str]:
        return [each.name for each in self.directory.glob("*") if each.is_dir()]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


@pytest.fixture
def mutability(tmp_path: Path, pool: Pool, queries: Runtime) -> Mutability:
    return Mutability(tmp_path, pool, queries)


def list_containers(runtime: FakeRuntime, *tokens: str) -> None:
    """Let the runtime list containers with these overlays, and one without."""
    annotated = [
        api_pb2.Container(annotations={adjustment.MUTABLE_ANNOTATION: token}) for token in tokens
    ]
    response = api_pb2.ListContainersResponse(containers=[api_pb2.Container(), *annotated])
    runtime.answer(LIST, response)


async def test_an_overlay_is_not_removed_while_its_container_is_created(
    mutability: Mutability, pool: Pool, runtime: FakeRuntime
) -> None:
    list_containers(runtime)
    async with mutability.create(Path("/view")) as writable:
        await mutability.sweep()

        assert pool.present == [writable.token]
        assert writable.store == pool.directory / writable.token / "store"
    await mutability.sweep()
    assert pool.present == []


async def test_an_overlay_is_kept_while_the_runtime_lists_its_container(
    mutability: Mutability, pool: Pool, runtime: FakeRuntime
) -> None:
    async with mutability.create(Path("/view")) as writable:
        list_containers(runtime, writable.token)
    await mutability.sweep()
    assert pool.present == [writable.token]

    list_containers(runtime)
    await mutability.sweep()
    assert pool.present == []


async def test_nothing_is_removed_while_the_runtime_does_not_answer(
    mutability: Mutability, pool: Pool, runtime: FakeRuntime
) -> None:
    async with mutability.create(Path("/view")):
        pass
    runtime.fail(LIST, grpc.StatusCode.UNAVAILABLE, "restarting")

    with pytest.raises(errors.SourceUnreachable):
        await mutability.sweep()

    assert len(pool.present) == 1


async def test_the_runtime_is_not_asked_when_there_are_no_overlays(
    mutability: Mutability, runtime: FakeRuntime
) -> None:
    await mutability.sweep()

    assert runtime.calls == []


@pytest.mark.parametrize("is_removal", [True, False], ids=["removal", "failed creation"])
async def test_the_removal_or_failed_creation_of_a_container_starts_a_sweep(
    mutability: Mutability, pool: Pool, runtime: FakeRuntime, call: RecordedCall, is_removal: bool
) -> None:
    list_containers(runtime)
    keeping = asyncio.create_task(mutability.run())
    await asyncio.sleep(0)  # the sweep at the start, which finds nothing

    if is_removal:
        async with mutability.create(Path("/view")):
            pass
        payload = b"remove"
        assert await mutability(payload, call) == b"response"
        assert call.forwarded[0] is payload
    else:
        with pytest.raises(RuntimeError):
            async with mutability.create(Path("/view")):
                raise RuntimeError
    await asyncio.wait_for(pool.removed.wait(), DEADLINE)

    keeping.cancel()
    await asyncio.wait([keeping])
    assert pool.present == []


async def test_what_is_left_at_the_end_is_swept_once_more(
    mutability: Mutability, pool: Pool, runtime: FakeRuntime, call: RecordedCall
) -> None:
    list_containers(runtime)
    keeping = asyncio.create_task(mutability.run())
    await asyncio.sleep(0)
    async with mutability.create(Path("/view")):
        pass
    keeping.cancel()
    await mutability(b"remove", call)
    await asyncio.wait([keeping])

    assert pool.present == []


async def test_a_failure_to_create_one_is_raised_and_its_lock_released(
    mutability: Mutability, pool: Pool
) -> None:
    pool.is_failing = True
    with pytest.raises(errors.NodeExhausted):
        async with mutability.create(Path("/view")):
            pass

    assert overlays.Overlays(pool.directory).tokens() == frozenset()
