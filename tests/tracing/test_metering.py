"""What is counted and timed of calls: once each, by method and status, however they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy import errors
from cri_proxy.cri import channels, methods
from cri_proxy.interposer.calls import Call
from cri_proxy.interposer.server import Server
from cri_proxy.lib import meters, sockets
from cri_proxy.tracing import metering
from cri_proxy.tracing.metering import MeteredRelay
from hack.testbed import waiting
from hack.testbed.fake_runtime import Context, FakeRuntime

CALLS = meters.counter("cri_proxy_calls_total", "")
SECONDS = meters.histogram("rpc_server_call_duration_seconds", "")
VERSION = methods.path_of("Version")
STATUS = methods.path_of("Status")
EVENTS = methods.path_of("GetContainerEvents")


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(tmp_path / "runtime.sock") as runtime:
        yield runtime


async def refuse(payload: bytes, call: Call) -> bytes:
    """Intercept Version: refuse it, or forward it if it says so."""
    if payload == b"refuse":
        raise errors.NotFound("there is no such thing; ask for another")
    return await call.forward(payload)


@pytest.fixture
async def caller(runtime: FakeRuntime, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a relay that is metered; nothing has been counted yet."""
    upstream, place = channels.dial(runtime.socket), tmp_path / "relay.sock"
    relay = MeteredRelay(upstream, {VERSION: refuse})
    server = Server(relay, place, sockets.access_of(runtime.socket))
    await server.start()
    CALLS.drain()
    caller = channels.dial(place)
    yield caller
    await caller.close(None)
    await server.stop()
    await upstream.close(None)


def durations() -> dict[tuple[str, ...], int]:
    return {labels: sum(counts) for labels, (counts, _) in SECONDS.values().items()}


async def test_calls_are_counted_by_method_and_status(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    await caller.unary_unary(STATUS)(b"", timeout=60)
    await caller.unary_unary(STATUS)(b"", timeout=60)
    runtime.fail(STATUS, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.unary_unary(STATUS)(b"", timeout=60)
    async for _ in caller.unary_stream(EVENTS)(b"", timeout=60):
        pass
    await caller.unary_unary("/runtime.v9.Future/Method")(b"", timeout=60)

    assert CALLS.values() == {
        (STATUS[1:], "OK"): 2,
        (STATUS[1:], "NOT_FOUND"): 1,
        (EVENTS[1:], "OK"): 1,
        ("_OTHER", "OK"): 1,
    }


async def test_calls_that_are_intercepted_are_timed_as_well(caller: grpc.aio.Channel) -> None:
    before = durations()
    await caller.unary_unary(VERSION)(b"", timeout=60)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.unary_unary(VERSION)(b"refuse", timeout=60)
    await caller.unary_unary(STATUS)(b"", timeout=60)

    after = durations()
    assert {key: after[key] - before.get(key, 0) for key in after} == {
        ("grpc", VERSION[1:], "OK"): 1,
        ("grpc", VERSION[1:], "NOT_FOUND"): 1,
    }
    assert CALLS.values()[(VERSION[1:], "NOT_FOUND")] == 1


@pytest.mark.parametrize("path", [VERSION, STATUS, EVENTS])
async def test_a_call_that_its_caller_gives_up_is_counted_as_cancelled(
    runtime: FakeRuntime, caller: grpc.aio.Channel, path: str
) -> None:
    entered = asyncio.Event()

    async def behaviour(payloads: object, context: Context) -> None:
        entered.set()
        await asyncio.Event().wait()

    runtime.on(path, behaviour)
    call = (
        caller.unary_stream(path)(b"", timeout=60)
        if path == EVENTS
        else caller.unary_unary(path)(b"", timeout=60)
    )
    reading = asyncio.ensure_future(call.read() if path == EVENTS else call)
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    await asyncio.to_thread(
        waiting.until, lambda: bool(CALLS.values()), what="the call to be counted"
    )
    assert CALLS.values() == {(path[1:], "CANCELLED"): 1}


def test_the_router_counts_in_the_same_place() -> None:
    CALLS.drain()
    metering.count("runtime.v1.RuntimeService/Status", "OK")

    assert CALLS.values() == {("runtime.v1.RuntimeService/Status", "OK"): 1}
