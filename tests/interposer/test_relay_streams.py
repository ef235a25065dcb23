"""Relay: what goes through unchanged, for streams, known and unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import methods
from hack.testbed import plainhttp2
from hack.testbed.fake_runtime import DEADLINE_SECONDS, Behaviour, Context, FakeRuntime
from hack.testbed.relays import Relays

EVENTS = methods.path_of("GetContainerEvents")
FUTURE = "/runtime.v7.TimeService/Rewind"


async def test_answers_of_a_stream_pass_in_order_as_they_come(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        async for _ in payloads:
            pass
        while payload := await steps.get():
            await context.write(payload)
        context.set_trailing_metadata((("x-trailer-bin", b"\xff"),))

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"question")

    async with asyncio.timeout(DEADLINE_SECONDS):
        for payload in (b"first", b"\xff\x00", b"x"):
            steps.put_nowait(payload)
            assert await call.read() == payload
        steps.put_nowait(b"")
        assert await call.read() == grpc.aio.EOF

    assert await call.code() is grpc.StatusCode.OK
    assert tuple(await call.trailing_metadata()) == (("x-trailer-bin", b"\xff"),)
    assert (await runtime.called(EVENTS)).payloads == [b"question"]


async def test_headers_of_an_idle_stream_come_before_any_message(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.send_initial_metadata((("x-header", "h"),))
        await _for_ever()

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"")

    async with asyncio.timeout(DEADLINE_SECONDS):
        headers = await call.initial_metadata()

    assert tuple(headers) == (("x-header", "h"),)
    call.cancel()


async def test_future_method_may_stream_both_ways_at_once(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    call = caller.stream_stream(FUTURE)()

    async with asyncio.timeout(DEADLINE_SECONDS):
        for payload in (b"one", b"", b"three"):
            await call.write(payload)
            assert await call.read() == payload
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF

    assert (await runtime.called(FUTURE)).payloads == [b"one", b"", b"three"]


async def test_future_method_may_stream_only_upwards(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    runtime.answer(FUTURE, b"sum")

    async def payloads() -> AsyncIterator[bytes]:
        for payload in (b"1", b"2"):
            yield payload

    answer = await caller.stream_unary(FUTURE)(payloads(), timeout=DEADLINE_SECONDS)

    assert answer == b"sum"
    assert (await runtime.called(FUTURE)).payloads == [b"1", b"2"]


async def test_half_close_is_seen_by_the_runtime_while_its_answers_go_on(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    proceed = asyncio.Event()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.write(b"before")
        async for _ in payloads:
            pass
        await proceed.wait()
        await context.write(b"after")

    runtime.on(FUTURE, behaviour)
    call = caller.stream_stream(FUTURE)()
    received = await runtime.called(FUTURE)

    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await call.read() == b"before"
        assert not received.half_closed.is_set()
        await call.done_writing()
        await received.half_closed.wait()
        proceed.set()
        assert await call.read() == b"after"
        assert await call.read() == grpc.aio.EOF

    assert received.payloads == []


async def test_runtime_may_end_a_stream_that_the_caller_still_writes(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await anext(payloads)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough", (("x-trailer", "t"),))

    runtime.on(FUTURE, behaviour)
    call = caller.stream_stream(FUTURE)()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await call.write(b"one")
        code = await call.code()

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call.details() == "enough"
    assert tuple(await call.trailing_metadata()) == (("x-trailer", "t"),)


async def test_error_after_messages_passes_behind_them(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        for _ in range(100):
            await context.write(b"message")
        await context.abort(
            grpc.StatusCode.DATA_LOSS, "gone", (("grpc-status-details-bin", b"\x00\xff"),)
        )

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"", timeout=DEADLINE_SECONDS)

    for _ in range(100):
        assert await call.read() == b"message"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()

    assert failure.value.code() is grpc.StatusCode.DATA_LOSS
    assert tuple(failure.value.trailing_metadata()) == (("grpc-status-details-bin", b"\x00\xff"),)


async def test_stream_that_the_runtime_lacks_is_unimplemented_at_the_first_read(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """Kubelet takes this, and only this, for a runtime without Stream* methods."""
    path = methods.path_of("StreamContainers")
    runtime.fail(path, grpc.StatusCode.UNIMPLEMENTED, "unknown method StreamContainers")

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await caller.unary_stream(path)(b"", timeout=DEADLINE_SECONDS).read()

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert failure.value.details() == "unknown method StreamContainers"


# Cancellation


async def test_stream_cancelled_before_its_headers_is_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await _for_ever()

    await _assert_cancelled_when(runtime, caller, behaviour, reads=0)


async def test_stream_cancelled_after_its_headers_is_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.send_initial_metadata(())
        await _for_ever()

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await call.initial_metadata()
        call.cancel()
        await (await runtime.called(EVENTS)).cancelled.wait()


async def test_stream_cancelled_between_messages_is_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.write(b"one")
        await context.write(b"two")
        await _for_ever()

    await _assert_cancelled_when(runtime, caller, behaviour, reads=2)


async def test_stream_cancelled_while_messages_wait_is_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        while True:
            await context.write(bytes(1 << 16))

    await _assert_cancelled_when(runtime, caller, behaviour, reads=1)


async def test_stream_whose_caller_still_writes_is_cancelled_at_the_runtime(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        async for payload in payloads:
            await context.write(payload)
        await _for_ever()

    runtime.on(FUTURE, behaviour)
    call = caller.stream_stream(FUTURE)()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await call.write(b"one")
        assert await call.read() == b"one"
        call.cancel()

        await (await runtime.called(FUTURE)).cancelled.wait()


async def test_upload_that_is_cancelled_is_not_half_closed_first(
    relays: Relays, tmp_path: Path
) -> None:
    """The runtime would take what it has got for all there is."""
    arrived: asyncio.Queue[plainhttp2.Frame] = asyncio.Queue()
    ended: asyncio.Queue[list[plainhttp2.Frame]] = asyncio.Queue()

    async def runtime(connection: plainhttp2.Connection) -> None:
        while True:
            arrived.put_nowait((await connection.next(plainhttp2.DATA))[0])
            ended.put_nowait((await connection.next(plainhttp2.RST_STREAM))[1])

    async with plainhttp2.serving(tmp_path / "plain.sock", runtime):
        relay = await relays.start(upstream=tmp_path / "plain.sock")
        frames = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(20):
                call = relay.caller.stream_stream(FUTURE)()
                await call.write(b"half of it")
                frames.append(await arrived.get())
                call.cancel()
                frames.extend(await ended.get())
        await relay.aclose()

    data = [frame for frame in frames if frame.kind == plainhttp2.DATA]
    assert len(data) == 20
    assert not any(frame.flags & plainhttp2.END_STREAM for frame in data)


async def test_deadline_of_a_stream_that_has_answered_ends_it_on_both_sides(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.write(b"one")
        await _for_ever()

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"", timeout=2)

    assert await call.read() == b"one"
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(DEADLINE_SECONDS):
        await (await runtime.called(EVENTS)).cancelled.wait()


# Back-pressure


async def test_caller_that_does_not_read_stops_the_runtime_from_writing(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """What the proxy and the connections hold meanwhile is bounded by the windows of HTTP/2."""
    total, size = 2000, 1 << 16
    written = 0
    moved = asyncio.Event()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        nonlocal written
        for _ in range(total):
            await context.write(bytes(size))
            written += 1
            moved.set()

    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"")
    assert await call.read() == bytes(size)
    await _until_quiet(moved)
    held = written

    assert held < total // 2
    async with asyncio.timeout(DEADLINE_SECONDS):
        rest = [len(payload) async for payload in _reads_of(call)]
    assert rest == [size] * (total - 1)
    assert written == total


async def test_runtime_that_does_not_read_stops_the_caller_from_writing(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    total, size = 2000, 1 << 16
    proceed = asyncio.Event()
    written = 0
    moved = asyncio.Event()

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await proceed.wait()
        count = len([payload async for payload in payloads])
        await context.write(str(count).encode())

    async def write_all() -> None:
        nonlocal written
        for _ in range(total):
            await call.write(bytes(size))
            written += 1
            moved.set()
        await call.done_writing()

    runtime.on(FUTURE, behaviour)
    call = caller.stream_stream(FUTURE)()
    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(write_all())
        await _until_quiet(moved)
        held = written
        proceed.set()
        answer = await call.read()

    assert held < total // 2
    assert answer == str(total).encode()


async def _assert_cancelled_when(
    runtime: FakeRuntime, caller: grpc.aio.Channel, behaviour: Behaviour, *, reads: int
) -> None:
    """Cancel a stream of events after so many messages; the runtime must notice."""
    runtime.on(EVENTS, behaviour)
    call = caller.unary_stream(EVENTS)(b"")
    async with asyncio.timeout(DEADLINE_SECONDS):
        received = await runtime.called(EVENTS)
        for _ in range(reads):
            await call.read()

        call.cancel()

        await received.cancelled.wait()


async def _until_quiet(moved: asyncio.Event) -> None:
    """Wait until nothing has moved for a second."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            moved.clear()
            try:
                await asyncio.wait_for(moved.wait(), 1)
            except TimeoutError:
                return


async def _reads_of(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> AsyncIterator[bytes]:
    while (payload := await call.read()) != grpc.aio.EOF:
        yield payload


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_calls_that_are_refused_before_their_payload_arrives_end_as_the_runtime_says(
    runtime: FakeRuntime, caller: grpc.aio.Channel
) -> None:
    """An unknown method is refused at once, while its payload is being written."""

    async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method Future")

    path = "/runtime.v9.RuntimeService/Future"
    runtime.on(path, behaviour)
    future = caller.unary_unary(path)

    calls = [future(b"payload", timeout=DEADLINE_SECONDS) for _ in range(300)]
    codes = [await call.code() for call in calls]

    assert set(codes) == {grpc.StatusCode.UNIMPLEMENTED}
