"""A recording runtime, proxies in front of it, and kubelet's side of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import grpc.aio
import pytest
import uvloop

from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.proxies import Proxies


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the daemon's own kind of event loop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(tmp_path / "runtime.sock") as runtime:
        yield runtime


@pytest.fixture
async def proxies(runtime: FakeRuntime, tmp_path: Path) -> AsyncIterator[Proxies]:
    async with Proxies(tmp_path, runtime.socket) as proxies:
        yield proxies


@pytest.fixture
async def caller(proxies: Proxies) -> grpc.aio.Channel:
    """Kubelet's channel to a proxy that intercepts nothing."""
    return (await proxies.start()).caller
