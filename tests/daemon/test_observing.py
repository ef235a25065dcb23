"""Tracing as the settings want it: what is installed, and what a daemon does without it."""

from __future__ import annotations

import asyncio

import pytest

from cri_proxy.cri import api_pb2, methods
from cri_proxy.daemon import observing
from cri_proxy.telemetry import ring
from hack.testbed import waiting
from tests.daemon.conftest import Station

RUN = methods.path_of("RunPodSandbox")
REQUEST = api_pb2.RunPodSandboxRequest(
    config=api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(uid="u", name="web", namespace="shop")
    )
).SerializeToString()


@pytest.fixture
async def serving(station: Station) -> Station:
    """A station whose runtime makes sandboxes and has a version."""
    station.runtime.answer(RUN, api_pb2.RunPodSandboxResponse(pod_sandbox_id="sandbox-1"))
    station.runtime.answer(
        methods.path_of("Version"),
        api_pb2.VersionResponse(runtime_name="recorder", runtime_version="1.2"),
    )
    return station


async def test_a_node_that_traces_nothing_keeps_nothing(serving: Station) -> None:
    serving.proxy.configure({"tracing": {"pods": "none"}})
    await asyncio.to_thread(serving.proxy.start)

    await serving.caller.unary_unary(RUN)(REQUEST, timeout=60)
    await asyncio.to_thread(serving.proxy.stop)

    assert not observing.traces_below(serving.proxy.root).exists()


async def test_a_startup_that_is_under_way_is_continued_by_the_next_daemon(
    serving: Station,
) -> None:
    await asyncio.to_thread(serving.proxy.start)
    await serving.caller.unary_unary(RUN)(REQUEST, timeout=60)
    await asyncio.to_thread(serving.proxy.stop)
    (before,) = ring.load(observing.traces_below(serving.proxy.root))

    await asyncio.to_thread(serving.proxy.start)

    assert before.root is None
    assert "startups go on count=1" in serving.proxy.log_text()


async def test_the_root_of_a_startup_names_the_runtime_and_its_version(serving: Station) -> None:
    serving.proxy.configure({"tracing": {"settle_seconds": 0.1}})
    await asyncio.to_thread(serving.proxy.start)
    await serving.caller.unary_unary(RUN)(REQUEST, timeout=60)

    def root() -> dict[str, object] | None:
        (trace,) = ring.load(observing.traces_below(serving.proxy.root)) or (None,)
        return None if trace is None or trace.root is None else dict(trace.root.attributes)

    attributes = await asyncio.to_thread(waiting.until, root, what="the end of the startup")

    assert attributes["container.runtime.name"] == "recorder"
    assert attributes["container.runtime.version"] == "1.2"
