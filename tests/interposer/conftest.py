"""A recording runtime, proxies in front of it, and kubelet's side of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc.aio
import pytest
import uvloop

from cri_proxy.cri import channels
from cri_proxy.interposer import sockets
from cri_proxy.interposer.calls import Interceptor
from cri_proxy.interposer.relay import Relay
from cri_proxy.interposer.server import Server
from hack.testbed.fake_runtime import FakeRuntime


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the daemon's own kind of event loop."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True)
class Proxy:
    """A proxy that is serving; `caller` is a channel to it, as kubelet has one."""

    place: Path
    server: Server
    caller: grpc.aio.Channel


Proxying: TypeAlias = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(tmp_path / "runtime.sock") as runtime:
        yield runtime


@pytest.fixture
async def proxying(runtime: FakeRuntime, tmp_path: Path) -> AsyncIterator[Proxying]:
    """Starts a proxy in front of `runtime` with the interceptors given."""
    async with AsyncExitStack() as stack:

        async def start(
            interceptors: Mapping[str, Interceptor] | None = None,
            *,
            place: Path = tmp_path / "proxy.sock",
            upstream: Path = runtime.socket,
        ) -> Proxy:
            channel = await stack.enter_async_context(channels.dial(upstream))
            relay = Relay(channel, interceptors or {})
            server = Server(relay, place, sockets.access_of(upstream))
            await server.start()
            stack.push_async_callback(server.stop)
            caller = await stack.enter_async_context(channels.dial(place))
            return Proxy(place, server, caller)

        yield start


@pytest.fixture
async def caller(proxying: Proxying) -> grpc.aio.Channel:
    """Kubelet's channel to a proxy that intercepts nothing."""
    return (await proxying()).caller
