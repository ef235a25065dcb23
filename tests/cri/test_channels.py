"""Channels: what the options are for, seen from the runtime's side.

The limits on messages and metadata are proven with the relay, at both of its ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import channels, methods
from hack.testbed import plainhttp2
from hack.testbed.fake_runtime import DEADLINE_SECONDS, FakeRuntime

VERSION = methods.path_of("Version")


async def test_runtime_is_called_localhost_and_not_by_its_path(tmp_path: Path) -> None:
    """Strict HTTP/2 stacks refuse an authority with an escaped path in it."""
    block: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def runtime(connection: plainhttp2.Connection) -> None:
        block.set_result((await connection.next(plainhttp2.HEADERS))[0].payload)
        await connection.next(plainhttp2.RST_STREAM)

    socket = tmp_path / "runtime.sock"
    async with plainhttp2.serving(socket, runtime), channels.dial(socket) as channel:
        call = channel.unary_unary(VERSION)(b"")
        async with asyncio.timeout(DEADLINE_SECONDS):
            headers = await block
        call.cancel()

    assert b"localhost" in headers
    assert b"runtime.sock" not in headers


async def test_two_channels_have_a_connection_each(tmp_path: Path) -> None:
    accepted: asyncio.Queue[object] = asyncio.Queue()

    async def runtime(connection: plainhttp2.Connection) -> None:
        accepted.put_nowait(connection)
        await connection.next(plainhttp2.RST_STREAM)

    socket = tmp_path / "runtime.sock"
    async with (
        plainhttp2.serving(socket, runtime),
        channels.dial(socket) as one,
        channels.dial(socket) as two,
        asyncio.timeout(DEADLINE_SECONDS),
    ):
        calls = [channel.unary_unary(VERSION)(b"") for channel in (one, two)]
        for _ in calls:
            await accepted.get()
        for call in calls:
            call.cancel()


async def test_runtime_that_is_not_there_is_unavailable_with_its_path_in_the_message(
    tmp_path: Path,
) -> None:
    async with channels.dial(tmp_path / "absent.sock") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"absent\.sock") as failure:
            await channel.unary_unary(VERSION)(b"", timeout=DEADLINE_SECONDS)

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_path_with_signs_that_an_address_reserves_is_found(tmp_path: Path) -> None:
    directory = tmp_path / "a b%2F#?é"
    directory.mkdir()
    async with (
        FakeRuntime(directory / "runtime.sock") as runtime,
        channels.dial(runtime.socket) as channel,
    ):
        assert await channel.unary_unary(VERSION)(b"x", timeout=DEADLINE_SECONDS) == b"x"
