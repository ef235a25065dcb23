"""Relay: what goes through unchanged, for calls with one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.router.headers import DECODED_BYTES
from hack.testbed import plainhttp2
from hack.testbed.fake_runtime import DEADLINE_SECONDS, Context, FakeRuntime
from hack.testbed.relays import Relays

VERSION = methods.path_of("Version")
CREATE_CONTAINER = methods.path_of("CreateContainer")
FUTURE = "/runtime.v7.TimeService/TravelBack"

# Neither sorted, nor known, nor UTF-8: no schema would write it back like this.
STRANGE = (
    b"\xfa\x3f\x04\xde\xad\xbe\xef"
    + api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(envs=[api_pb2.KeyValue(key="KEY", value=b"\xff\xfe")]),
    ).SerializeToString()
)


async def test_create_container_that_is_not_intercepted_passes_byte_for_byte(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.answer(CREATE_CONTAINER, STRANGE[::-1])

    answer = await caller.unary_unary(CREATE_CONTAINER)(STRANGE, timeout=DEADLINE_SECONDS)

    assert answer == STRANGE[::-1]
    assert (await runtime.called(CREATE_CONTAINER)).payloads == [STRANGE]


@pytest.mark.parametrize("path", [VERSION, FUTURE, "/containerd.services.events.v1.Events/Publish"])
async def test_any_method_passes_with_unknown_and_binary_metadata(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    sent = (
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-repeated", "one"),
        ("x-repeated", "two"),
        ("x-strange-bin", bytes(range(256))),
    )
    headers = (("x-header", "h"), ("x-header-bin", b"\x00\xff"))
    trailers = (("x-trailer", "t"), ("x-trailer-bin", b"\xff\x00"))
    runtime.answer(path, b"answer", headers=headers, trailers=trailers)

    call = caller.unary_unary(path)(STRANGE, metadata=sent, timeout=DEADLINE_SECONDS)

    assert await call == b"answer"
    assert tuple(await call.initial_metadata()) == headers
    assert tuple(await call.trailing_metadata()) == trailers
    received = await runtime.called(path)
    assert received.payloads == [STRANGE]
    assert [pair for pair in received.metadata if pair[0] != "user-agent"] == list(sent)


async def test_every_method_of_the_cri_reaches_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    for path in sorted(methods.ALL):
        answers = caller.unary_stream(path)(path.encode(), timeout=DEADLINE_SECONDS)

        assert [answer async for answer in answers] == [path.encode()]

    assert [call.path for call in runtime.calls] == sorted(methods.ALL)


async def test_caller_that_is_synchronous_is_served_alike(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """Kubelet is not asyncio: a client with threads of its own, in the same breath."""
    runtime.answer(VERSION, b"answer", trailers=(("x-trailer", "t"),))
    target = channels.address_of(runtime.socket.with_name("proxy.sock"))

    def call() -> tuple[bytes, object]:
        with grpc.insecure_channel(target) as channel:
            answer, outcome = channel.unary_unary(VERSION).with_call(
                b"question", timeout=DEADLINE_SECONDS
            )
            return answer, tuple(outcome.trailing_metadata())

    assert await asyncio.to_thread(call) == (b"answer", (("x-trailer", "t"),))


async def test_user_agent_of_the_caller_is_not_sent_beside_our_own(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    await caller.unary_unary(VERSION)(b"", timeout=DEADLINE_SECONDS)
    await caller.stream_stream(FUTURE)(_one(b""), timeout=DEADLINE_SECONDS).read()

    for path in (VERSION, FUTURE):
        assert len((await runtime.called(path)).values_of("user-agent")) == 1


async def test_metadata_of_a_mebibyte_passes(
    runtime: FakeRuntime, caller: grpc.aio.Channel, relays: Relays
) -> None:
    huge = ("x-huge", "h" * (1 << 20))
    runtime.answer(FUTURE, b"")
    runtime.answer(VERSION, b"", headers=(huge,), trailers=(huge,))
    if relays.is_routed:  # the first call's the router has to read, as far as 96 KiB
        await caller.unary_unary(FUTURE)(b"", timeout=DEADLINE_SECONDS)

    call = caller.unary_unary(VERSION)(b"", metadata=(huge,), timeout=DEADLINE_SECONDS)
    await call

    assert tuple(await call.initial_metadata()) == (huge,)
    assert tuple(await call.trailing_metadata()) == (huge,)
    assert huge in (await runtime.called(VERSION)).metadata


async def test_first_call_passes_with_as_much_metadata_as_the_router_reads(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    large = ("x-large", "h" * (DECODED_BYTES - 1024))  # other headers and their count have the rest
    runtime.answer(VERSION, b"")

    await caller.unary_unary(VERSION)(b"", metadata=(large,), timeout=DEADLINE_SECONDS)

    assert large in (await runtime.called(VERSION)).metadata


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_messages_beyond_16_mib_pass_both_ways(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    huge = b"0123456789abcdef" * ((16 << 16) + 1)
    runtime.answer(path, huge[::-1])

    answer = await caller.unary_unary(path)(huge, timeout=DEADLINE_SECONDS)

    assert answer == huge[::-1]
    assert (await runtime.called(path)).payloads == [huge]


# Statuses


@pytest.mark.parametrize("path", [VERSION, FUTURE])
@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
async def test_every_status_passes_with_message_details_and_trailers(
    code: grpc.StatusCode, path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """CANCELLED too, which is not to be taken for a cancellation by the caller."""
    message = "failed to resolve »image«:\n\t100% gone\r\n"
    trailers = (
        ("x-trailer", "t"),
        ("x-trailer", "u"),
        ("grpc-status-details-bin", b"\x08\x05\x12\x00\xff"),
    )
    runtime.fail(path, code, message, trailers=trailers)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await caller.unary_unary(path)(b"", timeout=DEADLINE_SECONDS)

    assert failure.value.code() is code
    assert failure.value.details() == message
    assert tuple(failure.value.trailing_metadata()) == trailers


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_status_without_a_message_stays_without(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.fail(path, grpc.StatusCode.NOT_FOUND)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await caller.unary_unary(path)(b"", timeout=DEADLINE_SECONDS)

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert not failure.value.details()
    assert not failure.value.trailing_metadata()


@pytest.mark.parametrize("path", [VERSION, FUTURE])
@pytest.mark.parametrize("size", [9 << 10, 100 << 10])
async def test_error_message_longer_than_grpc_allows_by_default_passes(
    size: int, path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.fail(path, grpc.StatusCode.UNKNOWN, "e" * size)

    for _ in range(5):  # above the soft limit of 8 KiB headers are dropped by chance
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await caller.unary_unary(path)(b"", timeout=DEADLINE_SECONDS)

        assert failure.value.code() is grpc.StatusCode.UNKNOWN
        assert failure.value.details() == "e" * size


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_headers_that_came_before_an_error_pass(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.send_initial_metadata((("x-header", "h"),))
        await context.abort(grpc.StatusCode.ABORTED, "too late")

    runtime.on(path, behaviour)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await caller.unary_unary(path)(b"", timeout=DEADLINE_SECONDS)

    assert failure.value.code() is grpc.StatusCode.ABORTED
    assert tuple(failure.value.initial_metadata()) == (("x-header", "h"),)


async def test_call_that_fails_reaches_the_runtime_once(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """A second CreateContainer would find the name reserved by the first."""
    runtime.fail(CREATE_CONTAINER, grpc.StatusCode.UNAVAILABLE, "server is not initialized yet")

    with pytest.raises(grpc.aio.AioRpcError):
        await caller.unary_unary(CREATE_CONTAINER)(b"", timeout=DEADLINE_SECONDS)

    assert len(runtime.calls) == 1


async def test_status_code_that_grpc_does_not_have_becomes_unknown(
    relays: Relays, tmp_path: Path
) -> None:
    """As in every gRPC client; here the runtime is one that no gRPC library would be."""
    trailers = {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "77",
        "grpc-message": "odd",
    }

    async def runtime(connection: plainhttp2.Connection) -> None:
        await connection.next(plainhttp2.DATA)
        flags = plainhttp2.END_HEADERS | plainhttp2.END_STREAM
        block = plainhttp2.block_of(trailers)
        connection.send(plainhttp2.Frame(plainhttp2.HEADERS, flags, 1, block))
        await connection.next(plainhttp2.DATA)

    async with plainhttp2.serving(tmp_path / "odd.sock", runtime):
        relay = await relays.start(upstream=tmp_path / "odd.sock")

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await relay.caller.unary_unary(VERSION)(b"", timeout=DEADLINE_SECONDS)
        await relay.aclose()

    assert failure.value.code() is grpc.StatusCode.UNKNOWN
    assert failure.value.details() == "odd"


# Deadlines


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_call_without_a_deadline_gets_none(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """PullImage and GetContainerEvents have none; a deadline of zero or of ages would end them."""
    await caller.unary_unary(path)(b"")

    assert (await runtime.called(path)).seconds_left is None


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_deadline_goes_on_as_the_time_that_is_left(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    await caller.unary_unary(path)(b"", timeout=1000)

    seconds_left = (await runtime.called(path)).seconds_left
    assert seconds_left is not None
    assert 1000 - DEADLINE_SECONDS < seconds_left < 1050  # C-core rounds it up on the wire


@pytest.mark.parametrize("path", [methods.path_of("StopContainer"), FUTURE])
async def test_deadline_of_centuries_does_not_end_the_call_at_once(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """StopContainer's is the grace period and two minutes; a grace period may be any number."""
    connection = await plainhttp2.Connection.open(runtime.socket.with_name("proxy.sock"))
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "99999999H",
    }
    connection.send(
        plainhttp2.Frame(
            plainhttp2.HEADERS, plainhttp2.END_HEADERS, 1, plainhttp2.block_of(headers)
        ),
        plainhttp2.Frame(
            plainhttp2.DATA, plainhttp2.END_STREAM, 1, plainhttp2.message_of(b"question")
        ),
    )

    async with asyncio.timeout(DEADLINE_SECONDS):
        answer, _ = await connection.next(plainhttp2.DATA)
    await connection.aclose()

    assert answer.payload == plainhttp2.message_of(b"question")
    seconds_left = (await runtime.called(path)).seconds_left
    assert seconds_left is None or seconds_left > 365 * 86400


@pytest.mark.parametrize("path", [VERSION, FUTURE])
async def test_deadline_that_passes_ends_the_call_on_both_sides(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.on(path, _wait_for_ever)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await caller.unary_unary(path)(b"", timeout=1)

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(DEADLINE_SECONDS):
        await (await runtime.called(path)).cancelled.wait()


# Cancellation


@pytest.mark.parametrize("path", [methods.path_of("PullImage"), FUTURE])
async def test_unary_call_that_is_cancelled_is_cancelled_at_the_runtime(
    path: str, runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.on(path, _wait_for_ever)
    call = caller.unary_unary(path)(b"")
    received = await runtime.called(path)

    call.cancel()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await received.cancelled.wait()


async def test_calls_of_a_caller_that_dies_are_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    paths = (VERSION, FUTURE)
    tasks = []
    for path in paths:
        runtime.on(path, _wait_for_ever)
        tasks.append(asyncio.ensure_future(_outcome(caller.unary_unary(path)(b""))))
    received = [await runtime.called(path) for path in paths]

    await caller.close()

    async with asyncio.timeout(DEADLINE_SECONDS):
        for call in received:
            await call.cancelled.wait()
    await asyncio.gather(*tasks)


# The runtime away


async def test_runtime_that_is_away_is_told_as_unavailable_and_called_when_it_is_back(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    version = caller.unary_unary(VERSION)
    await version(b"", timeout=DEADLINE_SECONDS)
    await runtime.stop()

    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await version(b"", timeout=DEADLINE_SECONDS)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE

    await runtime.start()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await _code_of(version(b"again")) is not grpc.StatusCode.OK:
            await asyncio.sleep(0.05)
    assert runtime.calls[-1].payloads == [b"again"]


async def test_runtime_that_dies_during_a_call_is_told_as_unavailable(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.on(VERSION, _wait_for_ever)
    call = caller.unary_unary(VERSION)(b"")
    await runtime.called(VERSION)

    await runtime.stop()

    assert await _code_of(call) is grpc.StatusCode.UNAVAILABLE


async def _wait_for_ever(payloads: AsyncIterator[bytes], context: Context) -> None:
    await asyncio.get_running_loop().create_future()


async def _one(payload: bytes) -> AsyncIterator[bytes]:
    yield payload


async def _outcome(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> object:
    try:
        return await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
        return failure


async def _code_of(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> grpc.StatusCode:
    return await call.code()
