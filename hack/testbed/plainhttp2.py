"""Minimal HTTP/2, to send frames that no gRPC library would send, and to inspect received ones.

Header blocks are literals without indexing and Huffman codes, so that they can be built by hand and
searched. There is no flow control, because the data is far smaller than the initial windows. Source
of the format: RFC 9113, sections 4 and 6; RFC 7541, section 6.2.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame; `stream` is 0 for the connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def bytes_of(frame: Frame) -> bytes:
    """Encode the frame."""
    return (
        len(frame.payload).to_bytes(3, "big")
        + bytes((frame.kind, frame.flags))
        + frame.stream.to_bytes(4, "big")
        + frame.payload
    )


def block_of(headers: dict[str, str]) -> bytes:
    """Return a header block of literals; names and values have at most 126 bytes."""
    return b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in headers.items()
    )


def message_of(payload: bytes) -> bytes:
    """Return a payload as a gRPC message: uncompressed, after its length."""
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


class Connection:
    """One side of a connection; `next` acknowledges the peer's SETTINGS and PING frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, socket: Path) -> Self:
        """Connect as a client."""
        connection = cls(*await asyncio.open_unix_connection(socket))
        connection._writer.write(PREFACE)
        connection.send(Frame(SETTINGS, 0, 0, b""))
        return connection

    async def accept(self) -> None:
        """Accept a connection as a server."""
        await self._reader.readexactly(len(PREFACE))
        self.send(Frame(SETTINGS, 0, 0, b""))

    def send(self, *frames: Frame) -> None:
        """Send frames as they are."""
        self._writer.write(b"".join(map(bytes_of, frames)))

    async def next(self, kind: int) -> tuple[Frame, list[Frame]]:
        """Return the next frame of a kind, and the frames of other kinds before it.

        Raises IncompleteReadError if the peer closes the connection instead.
        """
        others = []
        while (frame := await self._read()).kind != kind:
            if frame.kind == SETTINGS and not frame.flags & ACK:
                self.send(Frame(SETTINGS, ACK, 0, b""))
            if frame.kind == PING and not frame.flags & ACK:
                self.send(Frame(PING, ACK, 0, frame.payload))
            others.append(frame)
        return frame, others

    async def aclose(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> Frame:
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)


@contextlib.asynccontextmanager
async def serving(
    socket: Path, behaviour: Callable[[Connection], Awaitable[None]]
) -> AsyncIterator[None]:
    """Serve each connection to `socket` with `behaviour`, after the preface."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            await connection.accept()
            await behaviour(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the peer closed the connection
        finally:
            await connection.aclose()

    async with await asyncio.start_unix_server(serve, socket):
        yield
