"""Relay: what interceptors can do, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer.calls import Call, Interceptor
from cri_proxy.telemetry import logs
from hack.testbed.fake_runtime import DEADLINE_SECONDS, Context, FakeRuntime
from hack.testbed.relays import Relays

VERSION = methods.path_of("Version")
STATUS = methods.path_of("Status")
FUTURE = "/runtime.v7.TimeService/TravelBack"


async def test_interceptor_is_given_the_payload_and_the_call(
    runtime: FakeRuntime, relays: Relays
) -> None:
    seen: list[tuple[bytes, Call, float | None]] = []

    async def interceptor(payload: bytes, call: Call) -> bytes:
        seen.append((payload, call, call.remaining()))
        return b"answer"

    relay = await relays.start({VERSION: interceptor})
    version = relay.caller.unary_unary(VERSION)
    sent = (("traceparent", "00-1"), ("x-bin", b"\xff"))

    assert await version(b"question", metadata=sent, timeout=1000) == b"answer"
    assert await version(b"no deadline") == b"answer"

    (payload, call, remaining), (_, _, never) = seen
    assert payload == b"question"
    assert call.method == VERSION
    assert call.metadata == sent
    assert remaining is not None
    assert 1000 - DEADLINE_SECONDS < remaining < 1050
    assert never is None
    assert runtime.calls == []


async def test_interceptor_may_change_payloads_and_metadata_of_a_call(
    runtime: FakeRuntime, relays: Relays
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        answer = await call.forward(
            payload + b" changed",
            metadata=(("traceparent", "ours"), ("x-more-bin", b"\xff")),
        )
        return answer + b" changed too"

    headers, trailers = (("x-header", "h"),), (("x-trailer-bin", b"\x00"),)
    runtime.answer(VERSION, b"answer", headers=headers, trailers=trailers)
    relay = await relays.start({VERSION: interceptor})
    sent = (("traceparent", "theirs"), ("traceparent", "again"), ("x-kept", "k"))

    call = relay.caller.unary_unary(VERSION)(b"question", metadata=sent, timeout=1000)

    assert await call == b"answer changed too"
    assert tuple(await call.initial_metadata()) == headers
    assert tuple(await call.trailing_metadata()) == trailers
    received = await runtime.called(VERSION)
    assert received.payloads == [b"question changed"]
    assert received.values_of("traceparent") == ["ours"]
    assert received.values_of("x-more-bin") == [b"\xff"]
    assert received.values_of("x-kept") == ["k"]
    assert received.seconds_left is not None
    assert received.seconds_left > 1000 - DEADLINE_SECONDS


async def test_method_that_the_cri_lacks_may_be_intercepted(relays: Relays) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        return call.method.encode()

    relay = await relays.start({FUTURE: interceptor})

    assert await relay.caller.unary_unary(FUTURE)(b"") == FUTURE.encode()


async def test_other_methods_are_not_intercepted(runtime: FakeRuntime, relays: Relays) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        return b"intercepted"

    relay = await relays.start({VERSION: interceptor})

    assert await relay.caller.unary_unary(STATUS)(b"status") == b"status"
    assert [call.path for call in runtime.calls] == [STATUS]


async def test_failure_of_the_forwarded_call_reaches_the_caller_untouched(
    runtime: FakeRuntime, relays: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    trailers = (("grpc-status-details-bin", b"\x00\xff"), ("x-trailer", "t"))
    runtime.fail(VERSION, grpc.StatusCode.CANCELLED, "e" * 20_000, trailers=trailers)

    async def interceptor(payload: bytes, call: Call) -> bytes:
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(call.forward(payload))
        return answer.result()

    failure = await _failure_of(relays, interceptor)

    assert failure.code() is grpc.StatusCode.CANCELLED
    assert failure.details() == "e" * 20_000
    assert tuple(failure.trailing_metadata()) == trailers
    assert not caplog.records


async def test_refusal_of_an_interceptor_becomes_a_status_and_is_logged_once(
    runtime: FakeRuntime, relays: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        raise errors.NotFound("environment o/n does not exist on FloxHub: push it")

    failure = await _failure_of(relays, interceptor)

    assert failure.code() is grpc.StatusCode.NOT_FOUND
    assert failure.details() == "environment o/n does not exist on FloxHub: push it"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    line = logs.Text().format(record)
    assert f"interposer.relay: call refused method={VERSION} kind=NotFound " in line
    assert 'why="environment o/n does not exist on FloxHub: push it"' in line
    assert runtime.calls == []


async def test_refusal_in_a_task_group_is_found(relays: Relays) -> None:
    async def refuse() -> None:
        raise errors.StillRealizing("fetching 1/2 paths")

    async def interceptor(payload: bytes, call: Call) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
        return b""

    failure = await _failure_of(relays, interceptor)

    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert failure.details() == "fetching 1/2 paths"


async def test_fault_of_an_interceptor_is_internal_with_its_traceback_logged_once(
    relays: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        raise KeyError("secret of the pod")

    failure = await _failure_of(relays, interceptor)

    assert failure.code() is grpc.StatusCode.INTERNAL
    assert failure.details() == (
        f"internal error of cri-proxy in {VERSION} (KeyError): see its log"
    )
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_interceptor_whose_work_is_cancelled_by_another_does_not_leave_the_caller_waiting(
    relays: Relays,
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()
        await shared
        return b""

    failure = await _failure_of(relays, interceptor)

    assert failure.code() is grpc.StatusCode.INTERNAL


async def test_call_after_a_fault_is_served(runtime: FakeRuntime, relays: Relays) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        if payload == b"fault":
            raise ZeroDivisionError
        return await call.forward(payload)

    relay = await relays.start({VERSION: interceptor})
    version = relay.caller.unary_unary(VERSION)
    with pytest.raises(grpc.aio.AioRpcError):
        await version(b"fault", timeout=DEADLINE_SECONDS)

    assert await version(b"fine", timeout=DEADLINE_SECONDS) == b"fine"


async def test_caller_that_cancels_cancels_the_interceptor_and_the_call_it_forwarded(
    runtime: FakeRuntime, relays: Relays
) -> None:
    ended = asyncio.Event()

    async def interceptor(payload: bytes, call: Call) -> bytes:
        try:
            return await call.forward(payload)
        finally:
            ended.set()

    runtime.on(VERSION, _wait_for_ever)
    relay = await relays.start({VERSION: interceptor})
    call = relay.caller.unary_unary(VERSION)(b"")
    received = await runtime.called(VERSION)

    call.cancel()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await ended.wait()
        await received.cancelled.wait()


async def test_caller_that_cancels_cancels_the_questions_of_the_interceptor(
    runtime: FakeRuntime, relays: Relays
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(Runtime(relay.upstream).status(within=DEADLINE_SECONDS))
        return b""

    runtime.on(STATUS, _wait_for_ever)
    relay = await relays.start({VERSION: interceptor})
    call = relay.caller.unary_unary(VERSION)(b"")
    received = await runtime.called(STATUS)

    call.cancel()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await received.cancelled.wait()


async def test_interceptor_may_ask_the_runtime_over_the_same_channel(
    runtime: FakeRuntime, relays: Relays
) -> None:
    async def interceptor(payload: bytes, call: Call) -> bytes:
        version = await Runtime(relay.upstream).version()
        return version.runtime_name.encode()

    runtime.answer(VERSION, api_pb2.VersionResponse(runtime_name="recorder"))
    relay = await relays.start({STATUS: interceptor})

    assert await relay.caller.unary_unary(STATUS)(b"") == b"recorder"


async def _failure_of(relays: Relays, interceptor: Interceptor) -> grpc.aio.AioRpcError:
    """Return how a call fails that `interceptor` answers."""
    relay = await relays.start({VERSION: interceptor})
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await relay.caller.unary_unary(VERSION)(b"", timeout=DEADLINE_SECONDS)
    return failure.value


async def _wait_for_ever(payloads: AsyncIterator[bytes], context: Context) -> None:
    await asyncio.get_running_loop().create_future()
