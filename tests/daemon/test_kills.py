"""kill -9 of the whole proxy in the middle of realizations: what is in place is always whole."""

from __future__ import annotations

import asyncio
import functools
import random
import shutil
from pathlib import Path

import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, methods
from cri_proxy.model import environments
from cri_proxy.store import nar
from cri_proxy.store.disk.local import Store
from hack.testbed import waiting
from hack.testbed.environments import Package
from tests.daemon.conftest import Station

KILLS = 5
PACKAGES = 12
CREATE = methods.path_of("CreateContainer")


def publish(station: Station) -> list[Package]:
    """Publish packages of some size, so that a realization takes a while."""
    data = random.Random(7).randbytes(300_000)
    return [
        station.published.package(f"part-{number}", {f"share/{number}": data, f"etc/{number}": b""})
        for number in range(PACKAGES)
    ]


def create_request() -> bytes:
    """Return an annotated CreateContainer."""
    return api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main"),
            image=api_pb2.ImageSpec(image="sha256:1"),
            command=["true"],
        ),
        sandbox_config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(uid="pod"),
            annotations={"flox.dev/environment": "acme/web"},
        ),
    ).SerializeToString()


def environments_of(station: Station) -> list[Path]:
    """Return the places of all environments."""
    return list(station.proxy.environments.glob("[!.]*"))


def assert_whole(station: Station) -> None:
    """Hold every path in place to its recorded hash, and every environment to its closure."""
    store = Store(station.proxy.root / "store")
    for path in store.paths():
        record = store.record(path)
        assert record is not None
        assert nar.digest_of(store.locate(path)) == (record.nar_hash, record.nar_size)
    for place in environments_of(station):
        environment = environments.load(place)
        assert environment is not None
        listed = {each.name for each in environment.store.iterdir()}
        assert listed == {path.basename for path in environment.closure}


@pytest.mark.parametrize("seed", range(5))
async def test_a_proxy_that_is_killed_leaves_only_whole_things_and_the_next_one_completes_them(
    station: Station, seed: int
) -> None:
    station.push("web", station.published.tools, *publish(station))
    station.runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )
    chance = random.Random(seed)
    kills = 0
    while kills < KILLS:
        await asyncio.to_thread(station.proxy.start)
        before, moment = station.cache.count(), chance.randrange(PACKAGES)
        await station.caller.channel_ready()
        call = station.caller.unary_unary(CREATE)(create_request(), timeout=60)

        await asyncio.to_thread(
            waiting.until,
            functools.partial(_is_moment, station, call, before + moment),
            what="the moment to kill the proxy",
        )
        kills += not call.done()
        station.proxy.kill()
        outcome = await asyncio.gather(call, return_exceptions=True)

        assert isinstance(outcome[0], bytes | grpc.aio.AioRpcError)
        assert_whole(station)
        if environments_of(station):
            shutil.rmtree(station.proxy.root)

    await asyncio.to_thread(station.proxy.start)
    await station.caller.unary_unary(CREATE)(create_request(), wait_for_ready=True, timeout=60)
    assert_whole(station)
    assert len(environments_of(station)) == 1


def _is_moment(station: Station, call: grpc.aio.Call, requests: int) -> bool:
    """Whether the cache has been asked so often, or all is done already."""
    return station.cache.count() >= requests or call.done()
