"""Server: starting in a place, and stopping without breaking what can finish."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy import errors
from cri_proxy.cri import methods
from hack.testbed.fake_runtime import DEADLINE_SECONDS, Context, FakeRuntime
from hack.testbed.relays import Relays

VERSION = methods.path_of("Version")
PULL_IMAGE = methods.path_of("PullImage")
EVENTS = methods.path_of("GetContainerEvents")
LIST = methods.path_of("StreamContainers")
FUTURE = "/runtime.v7.TimeService/Rewind"

# Longer than any test may take: what waits for this grace to pass fails.
GRACE = 600.0

# The server's own sockets and its own end are what this is about: no router in front.
pytestmark = pytest.mark.parametrize("relays", ["alone"], indirect=True)


async def test_socket_has_the_access_of_the_runtimes_own(
    runtime: FakeRuntime, relays: Relays
) -> None:
    runtime.socket.chmod(0o640)
    relay = await relays.start()

    assert stat.S_IMODE(relay.place.stat().st_mode) == 0o640


async def test_path_with_signs_that_an_address_reserves_is_served(
    runtime: FakeRuntime, relays: Relays, tmp_path: Path
) -> None:
    relay = await relays.start(place=tmp_path / "a b%2F#?é" / "proxy.sock")

    assert relay.place.is_socket()
    assert await relay.caller.unary_unary(VERSION)(b"x", timeout=DEADLINE_SECONDS) == b"x"


async def test_socket_of_a_live_proxy_is_refused_and_it_goes_on(relays: Relays) -> None:
    """Bound to directly, gRPC would take the place over without a word."""
    first = await relays.start()

    with pytest.raises(errors.RequestInvalid, match="is listening at"):
        await relays.start()

    assert await first.caller.unary_unary(VERSION)(b"x", timeout=DEADLINE_SECONDS) == b"x"


async def test_directory_that_cannot_be_written_to_is_told(relays: Relays, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(errors.RequestInvalid, match="cannot listen at"):
        await relays.start(place=tmp_path / "file" / "proxy.sock")


async def test_proxy_that_stops_leaves_its_successors_socket_alone(
    runtime: FakeRuntime, relays: Relays
) -> None:
    """The successor starts while the other drains; gRPC unlinks what it bound when it is done."""
    runtime.on(PULL_IMAGE, _wait_for_ever)
    old = await relays.start()
    pull = old.caller.unary_unary(PULL_IMAGE)(b"")
    await runtime.called(PULL_IMAGE)
    async with asyncio.TaskGroup() as group:
        group.create_task(old.server.drain(GRACE))
        await _until_refused(old.place)

        new = await relays.start()
        pull.cancel()

    assert await new.caller.unary_unary(VERSION)(b"x", timeout=DEADLINE_SECONDS) == b"x"


async def test_caller_moves_to_the_successor_by_itself(
    runtime: FakeRuntime, relays: Relays
) -> None:
    old = await relays.start()
    version = old.caller.unary_unary(VERSION)
    await version(b"old", timeout=DEADLINE_SECONDS)
    await old.server.drain(GRACE)
    await relays.start()

    assert await version(b"new", timeout=DEADLINE_SECONDS, wait_for_ready=True) == b"new"


async def test_draining_server_takes_no_new_connection(relays: Relays) -> None:
    relay = await relays.start()
    await relay.server.drain(GRACE)

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(relay.place)


async def test_unary_call_finishes_while_the_server_drains(
    runtime: FakeRuntime, relays: Relays
) -> None:
    proceed = asyncio.Event()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await proceed.wait()
        await context.write(b"pulled")

    for path in (PULL_IMAGE, FUTURE):
        runtime.on(path, behaviour)
    relay = await relays.start()
    known = relay.caller.unary_unary(PULL_IMAGE)(b"")
    unknown = relay.caller.unary_unary(FUTURE)(b"")
    await runtime.called(PULL_IMAGE)
    await runtime.called(FUTURE)

    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        draining = group.create_task(relay.server.drain(GRACE))
        await _until_refused(relay.place)
        assert not draining.done()
        proceed.set()

        assert await known == b"pulled"
        assert await unknown == b"pulled"


async def test_stream_without_an_end_is_ended_as_unavailable_when_the_server_drains(
    runtime: FakeRuntime, relays: Relays
) -> None:
    """Left alone it would take all of the grace. Idle, answered and unknown ones alike."""

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.write(b"event")
        await _wait_for_ever(payloads, context)

    runtime.on(EVENTS, _wait_for_ever)
    runtime.on(FUTURE, behaviour)
    relay = await relays.start()
    idle = relay.caller.unary_stream(EVENTS)(b"")
    unknown = relay.caller.unary_stream(FUTURE)(b"")
    received = [await runtime.called(EVENTS), await runtime.called(FUTURE)]
    assert await unknown.read() == b"event"

    async with asyncio.timeout(DEADLINE_SECONDS):
        async with asyncio.TaskGroup() as group:
            group.create_task(relay.server.drain(GRACE))
            await idle.code()
            # Opened again at once, the stream must not come to us.
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_unix_connection(relay.place)

        for stream in (idle, unknown):
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            assert await stream.details() == "cri-proxy is stopping: retry"
        for call in received:
            await call.cancelled.wait()


async def test_stream_with_a_deadline_finishes_while_the_server_drains(
    runtime: FakeRuntime, relays: Relays
) -> None:
    proceed = asyncio.Event()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.write(b"some")
        await proceed.wait()
        await context.write(b"the rest")

    runtime.on(LIST, behaviour)
    relay = await relays.start()
    call = relay.caller.unary_stream(LIST)(b"", timeout=GRACE)

    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        assert await call.read() == b"some"
        group.create_task(relay.server.drain(GRACE))
        await _until_refused(relay.place)
        proceed.set()

        assert await call.read() == b"the rest"
        assert await call.read() == grpc.aio.EOF


async def test_what_outlasts_the_grace_is_cancelled_on_both_sides(
    runtime: FakeRuntime, relays: Relays
) -> None:
    runtime.on(PULL_IMAGE, _wait_for_ever)
    relay = await relays.start()
    call = relay.caller.unary_unary(PULL_IMAGE)(b"")
    received = await runtime.called(PULL_IMAGE)

    async with asyncio.timeout(DEADLINE_SECONDS):
        await relay.server.drain(0.1)
        await received.cancelled.wait()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_server_that_stops_cancels_all_calls_at_once(
    runtime: FakeRuntime, relays: Relays
) -> None:
    paths = (PULL_IMAGE, EVENTS, FUTURE)
    relay = await relays.start()
    calls = []
    for path in paths:
        runtime.on(path, _wait_for_ever)
        calls.append(relay.caller.unary_stream(path)(b""))
    received = [await runtime.called(path) for path in paths]

    async with asyncio.timeout(DEADLINE_SECONDS):
        await relay.server.stop()

        for each in received:
            await each.cancelled.wait()
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_stopping_twice_is_no_error(relays: Relays) -> None:
    relay = await relays.start()

    await relay.server.drain(GRACE)
    await relay.server.drain(GRACE)
    await relay.server.stop()


async def _until_refused(place: Path) -> None:
    """Wait until nothing listens at `place` any more."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(place)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def _wait_for_ever(payloads: AsyncIterator[bytes], context: Context) -> None:
    await asyncio.get_running_loop().create_future()
