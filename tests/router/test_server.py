"""The router on real sockets, between real gRPC clients and servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from cri_proxy.lib import sockets
from cri_proxy.router.server import Router
from hack.testbed.http2 import ENDLESS, INTERPOSED, OTHER

DEADLINE = 30
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # how long one attempt may last, whatever its name
)


class Peer(grpc.GenericRpcHandler):
    """A runtime or an interposer: answers with its name and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metadata: list[tuple[str, str | bytes]] = []
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.sent = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.metadata = list(details.invocation_metadata)
        return grpc.stream_stream_rpc_method_handler(self.answer)

    async def answer(self, payloads: AsyncIterator[bytes], context: Any) -> None:
        self.arrived.set()
        context.set_trailing_metadata((("x-from", self.name), ("x-bin", b"\x00\xff")))
        try:
            async for payload in payloads:
                if payload == b"fail":
                    await context.abort(grpc.StatusCode.NOT_FOUND, "kein Ümlaut\n")
                if payload == b"hang":
                    await asyncio.Event().wait()
                if payload == b"flood":
                    while True:
                        await context.write(bytes(64_000))
                        self.sent += 64_000
                await context.write(self.name.encode() + b":" + payload)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def serving(peer: Peer, path: Path) -> AsyncIterator[grpc.aio.Server]:
    path.unlink(missing_ok=True)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((peer,))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """A runtime, an interposer, and the router before them."""
    runtime, interposer = tmp_path / "r.sock", tmp_path / "i.sock"
    with sockets.listening(tmp_path / "p.sock", sockets.access_of(runtime)) as (listener, taken):
        pass
    router = Router(
        [listener],
        upstream=runtime,
        interposer=interposer,
        interposed=frozenset({INTERPOSED}),
        endless=frozenset({ENDLESS}),
    )
    await router.start()
    made = SimpleNamespace(
        router=router,
        path=tmp_path / "p.sock",
        runtime=Peer("runtime"),
        runtime_path=runtime,
        interposer=Peer("interposer"),
        interposer_path=interposer,
    )
    async with serving(made.runtime, runtime), serving(made.interposer, interposer):
        yield made
    await asyncio.wait_for(router.close(), DEADLINE)
    taken.withdraw()
    assert router.connections == 0


@pytest.fixture
async def channel(node: SimpleNamespace) -> AsyncIterator[grpc.aio.Channel]:
    """A client's channel to the router."""
    async with grpc.aio.insecure_channel(f"unix:{node.path}", options=_OPTIONS) as made:
        yield made


def call(channel: grpc.aio.Channel, path: str, payload: bytes, **more: Any) -> Any:
    return channel.unary_unary(path)(payload, timeout=DEADLINE, **more)


async def until(is_so: Callable[[], bool], *, wake: Callable[[], Awaitable[Any]]) -> None:
    """Wait until it is so, with a deadline; `wake` lets others run."""
    async with asyncio.timeout(DEADLINE):
        while not is_so():
            await wake()


@pytest.mark.parametrize(("path", "name"), [(OTHER, b"runtime"), (INTERPOSED, b"interposer")])
async def test_call_reaches_the_peer_that_its_method_belongs_to(
    channel: grpc.aio.Channel, path: str, name: bytes
) -> None:
    for payload in b"", b"x", bytes(100_000):
        assert await call(channel, path, payload) == name + b":" + payload


@pytest.mark.parametrize("path", [OTHER, INTERPOSED])
async def test_metadata_trailers_and_status_pass(
    node: SimpleNamespace, channel: grpc.aio.Channel, path: str
) -> None:
    peer = node.runtime if path == OTHER else node.interposer
    sent = (("x-a", "1"), ("x-a", "2"), ("x-raw-bin", b"\x00\xff\x80"), ("x-long", "y" * 65_000))
    failing = call(channel, path, b"fail", metadata=sent)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await failing

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert failure.value.details() == "kein Ümlaut\n"
    assert tuple(failure.value.trailing_metadata()) == (
        ("x-from", peer.name),
        ("x-bin", b"\x00\xff"),
    )
    assert tuple(each for each in peer.metadata if each[0].startswith("x-")) == sent


@pytest.mark.parametrize("path", [OTHER, INTERPOSED])
async def test_16_mib_pass_both_ways(channel: grpc.aio.Channel, path: str) -> None:
    payload = os.urandom(1 << 20) * 16

    answer = await call(channel, path, payload)

    assert answer.endswith(payload)


@pytest.mark.parametrize("path", [OTHER, INTERPOSED])
async def test_bidirectional_stream_passes_messages_as_they_come(
    channel: grpc.aio.Channel, path: str
) -> None:
    stream = channel.stream_stream(path)(timeout=DEADLINE)
    for turn in range(20):
        await stream.write(b"%d" % turn)
        assert (await stream.read()).endswith(b":%d" % turn)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("path", [OTHER, INTERPOSED])
async def test_cancelled_call_is_cancelled_at_its_peer(
    node: SimpleNamespace, channel: grpc.aio.Channel, path: str
) -> None:
    peer = node.runtime if path == OTHER else node.interposer
    hanging = call(channel, path, b"hang")
    await asyncio.wait_for(peer.arrived.wait(), DEADLINE)
    hanging.cancel()

    await asyncio.wait_for(peer.cancelled.wait(), DEADLINE)


async def test_calls_at_once_do_not_mix(channel: grpc.aio.Channel) -> None:
    paths = [(OTHER, b"runtime"), (INTERPOSED, b"interposer")] * 100
    payloads = [bytes([turn]) * (turn * 50) for turn in range(200)]

    answers = await asyncio.gather(
        *(call(channel, path, payload) for (path, _), payload in zip(paths, payloads))
    )

    assert answers == [name + b":" + data for (_, name), data in zip(paths, payloads)]


async def test_reader_that_stops_reading_stops_only_its_own_writer(
    node: SimpleNamespace, channel: grpc.aio.Channel
) -> None:
    stream = channel.unary_stream(OTHER)(b"flood", timeout=DEADLINE)
    await stream.read()
    other_options = (*_OPTIONS, ("grpc.channel_id", 2))
    async with grpc.aio.insecure_channel(f"unix:{node.path}", options=other_options) as other:
        sent = -1

        async def calls() -> None:
            nonlocal sent
            sent = node.runtime.sent
            for _ in range(30):
                assert await call(other, OTHER, b"x") == b"runtime:x"

        await until(lambda: sent == node.runtime.sent, wake=calls)

    assert node.runtime.sent < 64 << 20
    stream.cancel()


async def test_interposed_call_without_interposer_is_refused_and_others_pass(
    node: SimpleNamespace, channel: grpc.aio.Channel
) -> None:
    node.interposer_path.unlink()

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(channel, INTERPOSED, b"x")

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failure.value.details() == "cri-proxy: the interposer cannot be reached"
    assert await call(channel, OTHER, b"x") == b"runtime:x"


async def test_calls_are_unavailable_until_the_runtime_is_back(tmp_path: Path) -> None:
    runtime = tmp_path / "r.sock"
    with sockets.listening(tmp_path / "p.sock", sockets.access_of(runtime)) as (listener, taken):
        pass
    router = Router([listener], upstream=runtime, interposer=tmp_path / "i", interposed=frozenset())
    await router.start()
    async with grpc.aio.insecure_channel(f"unix:{taken.place}", options=_OPTIONS) as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(channel, OTHER, b"x")
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            async with serving(Peer("runtime"), runtime):
                assert await call(channel, OTHER, b"x", wait_for_ready=True) == b"runtime:x"
    await asyncio.wait_for(router.close(), DEADLINE)
    taken.withdraw()


async def test_drain_finishes_calls_in_flight_and_ends_endless_ones_last(
    node: SimpleNamespace, channel: grpc.aio.Channel
) -> None:
    endless = channel.unary_stream(ENDLESS)(b"hang")
    await asyncio.wait_for(node.runtime.arrived.wait(), DEADLINE)
    talk = channel.stream_stream(INTERPOSED)(timeout=DEADLINE)
    await talk.write(b"1")
    await talk.read()

    drain = asyncio.create_task(node.router.drain(DEADLINE))
    await talk.write(b"2")
    assert await talk.read() == b"interposer:2"
    assert not drain.done()
    assert not endless.done()
    await talk.done_writing()

    await asyncio.wait_for(drain, DEADLINE)
    assert await talk.code() is grpc.StatusCode.OK
    assert await endless.code() is grpc.StatusCode.UNAVAILABLE


async def test_close_cuts_a_drain_short(node: SimpleNamespace, channel: grpc.aio.Channel) -> None:
    hanging = call(channel, OTHER, b"hang")
    await asyncio.wait_for(node.runtime.arrived.wait(), DEADLINE)
    drain = asyncio.create_task(node.router.drain(DEADLINE))
    await asyncio.wait_for(node.router.close(), DEADLINE)

    await asyncio.wait_for(drain, DEADLINE)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await hanging
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_noise_ends_only_its_own_connection(
    node: SimpleNamespace, channel: grpc.aio.Channel
) -> None:
    assert await call(channel, OTHER, b"x") == b"runtime:x"
    reader, writer = await asyncio.open_unix_connection(str(node.path))
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()

    assert answer[3] == 7
    assert await call(channel, OTHER, b"x") == b"runtime:x"


async def test_no_descriptor_leaks(node: SimpleNamespace) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        async with grpc.aio.insecure_channel(f"unix:{node.path}", options=_OPTIONS) as channel:
            await call(channel, INTERPOSED, b"x")
    await until(lambda: node.router.connections == 0, wake=lambda: asyncio.sleep(0.01))
    await until(
        lambda: len(set(Path("/proc/self/fd").iterdir()) - before) <= 2,
        wake=lambda: asyncio.sleep(0.01),
    )
