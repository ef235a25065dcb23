"""A distant binary cache: serves a directory over HTTP, each answer after a delay.

    python -m hack.bench.origin DIRECTORY DELAY_SECONDS

The first line of output is the URL. On a machine with few cores, the server is part of what is
measured: the testbed's own server, with a thread per connection, uses as much processor time as its
clients. This one is an event loop that keeps small files in memory; it supports only GET over
persistent HTTP/1.1 connections. The answer to `SENT` has the number of bytes of files sent, and the
number of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote

import uvloop

from hack.testbed import processes

_REPOSITORY: Final = Path(__file__).parents[2]
SENT: Final = ".sent"
_MISSING: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_FOUND: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: "


@contextlib.contextmanager
def serving(directory: Path, *, delay: float) -> Iterator[str]:
    """Serve a directory from a separate process; yield the URL."""
    argv = [sys.executable, "-m", __name__, str(directory), str(delay)]
    with (
        tempfile.TemporaryDirectory() as place,
        processes.Program(argv, log=Path(place) / "log", cwd=_REPOSITORY) as server,
    ):
        yield server.await_output(r"^http://.+\n").strip()


class _Connection(asyncio.Protocol):
    """A client's connection; answers each request with a file."""

    def __init__(
        self, directory: Path, delay: float, known: dict[bytes, bytes], sent: list[int]
    ) -> None:
        self._sent = sent
        self._directory = directory
        self._delay = delay
        self._known = known
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        while (end := self._head.find(b"\r\n\r\n")) >= 0:
            target = self._head.split(b" ", 2)[1]
            self._head = self._head[end + 4 :]
            answer = self._known.get(target) or self._load(target)
            asyncio.get_running_loop().call_later(self._delay, self._send, answer)

    def _send(self, answer: bytes) -> None:
        self._sent[0] += len(answer) - answer.find(b"\r\n\r\n") - 4
        self._sent[1] += 1
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _load(self, target: bytes) -> bytes:
        if target == f"/{SENT}".encode():
            totals = json.dumps(self._sent).encode()
            return _FOUND + str(len(totals)).encode() + b"\r\n\r\n" + totals
        file = self._directory / unquote(target.decode()).lstrip("/")
        if ".." in file.parts or not file.is_file():
            return _MISSING
        data = file.read_bytes()
        answer = self._known[target] = _FOUND + str(len(data)).encode() + b"\r\n\r\n" + data
        return answer


async def _serve(directory: Path, delay: float) -> None:
    known: dict[bytes, bytes] = {}
    sent = [0, 0]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(directory, delay, known, sent), "127.0.0.1", 0, backlog=512
    )
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
