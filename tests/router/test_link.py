"""A connection on real sockets: how it begins, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cri_proxy.router import frames, headers, link
from cri_proxy.router.link import Link
from hack.testbed.http2 import INTERPOSED, MATCHER, request_of

DEADLINE = 30
SETTINGS = frames.build(frames.SETTINGS, 0, 0)


class Opened:
    """A link, the client's end of its downstream connection, and the runtime's connections."""

    def __init__(self, directory: Path) -> None:
        self.runtime: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.link = Link(
            MATCHER,
            upstream=directory / "runtime.sock",
            interposer=directory / "interposer.sock",
            on_close=lambda _: self.closed.set(),
        )

    async def open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        ours.setblocking(False)
        self.reader, self.writer = await asyncio.open_unix_connection(sock=theirs)
        self.link.open(ours)

    async def until_closed(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            rest = await self.reader.read()
            self.writer.close()
            await self.closed.wait()
        return rest


@asynccontextmanager
async def runtime(opened: Opened, directory: Path) -> AsyncIterator[None]:
    """A runtime that accepts connections and says its SETTINGS."""

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SETTINGS)
        opened.runtime.put_nowait(writer)

    server = await asyncio.start_unix_server(accepted, directory / "runtime.sock")
    try:
        yield
    finally:
        server.close()
        while not opened.runtime.empty():
            opened.runtime.get_nowait().close()


async def test_absent_runtime_closes_the_connection(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    await opened.open()

    assert await opened.until_closed() == b""


async def test_connection_without_a_preface_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PREFACE_SECONDS", 0)
    opened = Opened(tmp_path)
    async with runtime(opened, tmp_path):
        await opened.open()

        await opened.until_closed()


async def test_fault_ends_the_connection_and_is_logged_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(tmp_path)
    async with runtime(opened, tmp_path):
        await opened.open()
        opened.writer.write(b"GET / HTTP/1.1\r\n\r\n")

        reason = "invalid HTTP/2 connection preface"
        goaway = frames.goaway(0, frames.PROTOCOL_ERROR, reason)
        assert (await opened.until_closed()).endswith(goaway)

    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage() == "connection closed"
    assert record.cri_proxy_fields == {"why": reason}


async def test_runtime_that_closes_its_connection_closes_downstreams(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    async with runtime(opened, tmp_path):
        await opened.open()
        (await asyncio.wait_for(opened.runtime.get(), DEADLINE)).close()

        await opened.until_closed()


async def test_call_for_an_absent_interposer_fails_and_the_connection_stays(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    async with runtime(opened, tmp_path):
        await opened.open()
        fields = [(name.encode(), value.encode()) for name, value in request_of(INTERPOSED)]
        request = frames.headers(1, headers.encoded(fields), flags=frames.END_STREAM)
        opened.writer.write(frames.PREFACE + SETTINGS + request)
        async with asyncio.timeout(DEADLINE):
            await opened.reader.readuntil(b"\x00\x00\x00\x01\x20")  # headers of stream 1

        assert not opened.link.core.is_over
        opened.link.close()
        await opened.until_closed()
