"""The little HTTP that watchers speak, with well and badly behaved ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from cri_proxy.lib.endpoint import Endpoint, EndpointResponse


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def fine() -> EndpointResponse:
        return EndpointResponse(b"fine\n")

    async def away() -> EndpointResponse:
        return EndpointResponse(b"away\n", HTTPStatus.SERVICE_UNAVAILABLE)

    endpoint = Endpoint({"/fine": fine, "/away": away})
    yield await endpoint.start("127.0.0.1", 0)
    await endpoint.stop()


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /fine HTTP/1.1", b"200 OK", b"fine\n"),
        (b"GET /fine?x=1 HTTP/1.1", b"200 OK", b"fine\n"),
        (b"GET /away HTTP/1.1", b"503 Service Unavailable", b"away\n"),
        (b"GET /else HTTP/1.1", b"404 Not Found", b"nothing here but /fine, /away\n"),
        (b"POST /fine HTTP/1.1", b"405 Method Not Allowed", b"only GET and HEAD\n"),
        (b"HEAD /fine HTTP/1.1", b"200 OK", b""),
    ],
)
async def test_a_request_gets_its_route(
    port: int, request_line: bytes, status: bytes, body: bytes
) -> None:
    answer = await ask(port, request_line + b"\r\nHost: x\r\n\r\n")

    head, _, found = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert found == body


@pytest.mark.parametrize(
    "request_bytes", [b"", b"GET /fine", b"\x16\x03\x01\x00\xff", b"GET /" + b"a" * 100_000]
)
async def test_what_is_no_request_is_hung_up_on(port: int, request_bytes: bytes) -> None:
    try:
        answer = await ask(port, request_bytes)
    except ConnectionError:
        answer = b""

    assert answer == b""


async def test_a_client_that_goes_away_does_no_harm(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()

    assert b"fine" in await ask(port, b"GET /fine HTTP/1.1\r\n\r\n")
