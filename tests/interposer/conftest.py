"""A recording runtime, proxies in front of it, and kubelet's side of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
import uvloop

from cri_proxy.cri import channels
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer.calls import Metadata
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.relays import Relays


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the daemon's own kind of event loop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_errors_in_grpcs_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a handler lets escape, gRPC logs; whether the call looks right to its caller or not."""
    yield
    for phase in ("setup", "call"):
        assert not [
            record.getMessage()
            for record in caplog.get_records(phase)
            if record.levelno >= logging.ERROR
            and record.name.startswith(("grpc", "asyncio"))
            and not _is_late(record)
        ]


def _is_late(record: logging.LogRecord) -> bool:
    """Return whether a record is about an event for the loop of an earlier test.

    gRPC has one queue of events for all loops of a process. The daemon has one loop, tests have
    one each, and on a busy machine a test's last events come after its loop was closed.
    """
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(tmp_path / "runtime.sock") as runtime:
        yield runtime


@pytest.fixture
async def queries(runtime: FakeRuntime) -> AsyncIterator[Runtime]:
    """The proxy's own queries of the recording runtime."""
    channel = channels.dial(runtime.socket)
    yield Runtime(channel)
    await channel.close(None)


@dataclass
class RecordedCall:
    """A call of kubelet, without a connection: records what an interceptor forwards."""

    method: str = "/runtime.v1.RuntimeService/Any"
    metadata: Metadata = ()
    seconds: float | None = None
    forwarded: list[bytes] = field(default_factory=list)
    on_forward: Callable[[], None] = lambda: None

    def remaining(self) -> float | None:
        return self.seconds

    async def forward(
        self, payload: bytes, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> bytes:
        self.on_forward()
        self.forwarded.append(payload)
        return b"response"


@pytest.fixture
def call() -> RecordedCall:
    return RecordedCall()


@pytest.fixture(params=["alone", "routed"])
async def relays(
    request: pytest.FixtureRequest, runtime: FakeRuntime, tmp_path: Path
) -> AsyncIterator[Relays]:
    """What a relay promises holds with the router in front of it, too."""
    routed = request.param == "routed"
    async with Relays(tmp_path, runtime.socket, is_routed=routed) as relays:
        yield relays


@pytest.fixture
async def caller(relays: Relays) -> grpc.aio.Channel:
    """Kubelet's channel to a proxy that intercepts nothing."""
    return (await relays.start()).caller
