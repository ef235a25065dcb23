"""A minimal HTTP server for metrics and health probes.

    GET /healthz HTTP/1.1        ->  what the route of that path returns

It serves one small request per connection, within seconds, and reads no bodies. It is meant for a
local address: there is no encryption and no authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias

REQUEST_SECONDS: Final = 10.0
_HEAD_BYTES: Final = 16 * 1024
_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class EndpointResponse:
    """What a route returns."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    type: str = "text/plain; charset=utf-8"


Route: TypeAlias = Callable[[], Awaitable[EndpointResponse]]


class Endpoint:
    """Serves `routes` by path; usable from `start` to `stop`."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which the system chooses for 0. Raises OSError if it cannot.

        The port may be shared with another process of the same user, so that no request is refused
        while one daemon replaces another.
        """
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=_HEAD_BYTES, reuse_port=True
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    if self._open <= _CONNECTIONS:
                        await self._answer(reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
        route = self._routes.get(path)
        if route is None:
            known = ", ".join(self._routes)
            answer = EndpointResponse(f"nothing here but {known}\n".encode(), HTTPStatus.NOT_FOUND)
        elif method not in (b"GET", b"HEAD"):
            answer = EndpointResponse(b"only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            answer = await route()
        writer.write(
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
            f"Content-Type: {answer.type}\r\nContent-Length: {len(answer.body)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        if method != b"HEAD":
            writer.write(answer.body)
        await writer.drain()
