"""The daemon's cost on a node: memory with a full node, processor time at rest.

The runtime is the recording one: only the daemon is measured, and no pod really runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final

import grpc.aio

from cri_proxy.cri import api_pb2, channels, methods
from hack.bench import processes
from hack.bench.figures import Figure, Options
from hack.testbed import environments
from hack.testbed.environments import Published
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.floxhub import FloxHub
from hack.testbed.proxy import Proxy
from hack.testbed.web import FileServer

PODS: Final = 110
ENVIRONMENTS: Final = 20
_POLLED: Final = ("ListPodSandbox", "ListContainers", "Status", "ImageFsInfo")
_POLL_SECONDS: Final = 0.25


def measure(options: Options, directory: Path) -> Iterator[Figure]:
    """Fill a node with pods, then measure it at rest."""
    yield from asyncio.run(_measured(options, directory))


async def _measured(options: Options, directory: Path) -> list[Figure]:
    async with AsyncExitStack() as outer:
        runtime = await outer.enter_async_context(FakeRuntime(directory / "runtime.sock"))
        image = api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1"))
        runtime.answer(methods.path_of("ImageStatus"), image)
        with ExitStack() as stack:
            published = environments.published(directory / "cache")
            hub = stack.enter_context(FloxHub(directory / "hub"))
            cache = stack.enter_context(FileServer(published.publisher.directory))
            _push(hub, published)
            proxy = Proxy(
                directory / "proxy",
                runtime.socket,
                {
                    "floxhub": {"url": hub.url, "git_url": hub.git_url},
                    "store": {
                        "caches": [cache.url],
                        "public_keys": [published.publisher.public_key],
                    },
                    "log": {"level": "info", "format": "json"},
                },
            )
            await asyncio.to_thread(proxy.start)
            stack.callback(proxy.stop)
            caller = channels.dial(proxy.socket)
            outer.push_async_callback(caller.close, None)
            empty = processes.memory_of(proxy.pid)
            for number in range(PODS):
                await _run_pod(caller, number)
            full = processes.memory_of(proxy.pid)
            seconds = 10.0 if options.is_quick else 30.0
            share = await _idle_share(caller, proxy.pid, seconds)
            return [
                Figure(name="daemon's memory at its start", unit="MiB", ours=empty),
                Figure(name=f"daemon's memory with {PODS} pods", unit="MiB", ours=full, limit=64),
                Figure(
                    name=f"daemon's share of a core, {1 / _POLL_SECONDS:.0f} calls a second",
                    unit="%",
                    ours=100 * share,
                    limit=1.0,
                ),
            ]


def _push(hub: FloxHub, published: Published) -> None:
    for number in range(ENVIRONMENTS):
        files = {f"share/page-{number}": b"x" * 1000}
        package = environments.package(published.publisher, f"page-{number}", files)
        lock = environments.lockfile(published.tools, package)
        hub.push("bench", f"environment-{number}", lock)


async def _run_pod(caller: grpc.aio.Channel, number: int) -> None:
    """Make the calls that start a pod of one container."""
    annotations = {"flox.dev/environment": f"bench/environment-{number % ENVIRONMENTS}"}
    sandbox = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=f"pod-{number}", uid=f"uid-{number}"),
        annotations=annotations,
    )
    run = api_pb2.RunPodSandboxRequest(config=sandbox)
    create = api_pb2.CreateContainerRequest(
        pod_sandbox_id=f"sandbox-{number}",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main"),
            image=api_pb2.ImageSpec(image="sha256:1"),
            command=["httpd", "-f"],
        ),
        sandbox_config=sandbox,
    )
    for method, message in (("RunPodSandbox", run), ("CreateContainer", create)):
        await _call(caller, method, message.SerializeToString())


async def _call(caller: grpc.aio.Channel, method: str, payload: bytes) -> None:
    await caller.unary_unary(methods.path_of(method), None, None)(payload, timeout=120)


async def _idle_share(caller: grpc.aio.Channel, process: int, seconds: float) -> float:
    """Return the share of a core that a daemon uses while kubelet only polls."""
    await asyncio.sleep(5)  # background work after the last pod
    begun, computed = time.monotonic(), processes.computed_by(process)
    turn = 0
    while time.monotonic() - begun < seconds:
        await _call(caller, _POLLED[turn % len(_POLLED)], b"")
        turn += 1
        await asyncio.sleep(_POLL_SECONDS)
    return (processes.computed_by(process) - computed) / (time.monotonic() - begun)
