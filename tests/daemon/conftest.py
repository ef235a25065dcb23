"""The whole program in front of a runtime that only records: what passes, and what survives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from cri_proxy.cri import channels
from hack.testbed import environments
from hack.testbed.environments import Package, Published
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.floxhub import FloxHub
from hack.testbed.proxy import Proxy
from hack.testbed.web import FileServer


@dataclass(slots=True)
class Station:
    """A proxy, where it gets environments from, and the recording runtime behind it."""

    runtime: FakeRuntime
    hub: FloxHub
    cache: FileServer
    published: Published
    proxy: Proxy
    caller: grpc.aio.Channel

    def push(self, name: str, *packages: Package) -> None:
        """Push a generation of environment acme/<name>."""
        self.hub.push("acme", name, environments.lockfile(*packages))


@pytest.fixture
async def station(tmp_path: Path, published: Published) -> AsyncIterator[Station]:
    """A station whose proxy runs, with an empty store and an empty FloxHub."""
    async with AsyncExitStack() as outer:
        runtime = await outer.enter_async_context(FakeRuntime(tmp_path / "runtime.sock"))
        with ExitStack() as stack:
            hub = stack.enter_context(FloxHub(tmp_path / "hub"))
            cache = stack.enter_context(FileServer(published.publisher.directory))
            proxy = Proxy(
                tmp_path / "proxy",
                runtime.socket,
                {
                    "floxhub": {"url": hub.url, "git_url": hub.git_url, "remember_seconds": 0},
                    "store": {
                        "caches": [cache.url],
                        "public_keys": [published.publisher.public_key],
                    },
                },
            )
            stack.callback(proxy.stop)
            caller = channels.dial(proxy.socket)
            outer.push_async_callback(caller.close, None)
            yield Station(runtime, hub, cache, published, proxy, caller)
