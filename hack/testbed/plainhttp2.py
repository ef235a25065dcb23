"""Just enough HTTP/2 to say what no gRPC library would, and to see what it says.

Header blocks are written as literals without indexing and without Huffman codes, so that a block
can be built by hand and needles be found in it. Flow control is not kept: what passes here is far
below the initial windows. Source of the format: RFC 9113, sections 4 and 6; RFC 7541, section 6.2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
SETTINGS: Final = 4

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `stream` is 0 for the connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def bytes_of(frame: Frame) -> bytes:
    """Return the frame as it goes on the wire."""
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
    """Return a payload as gRPC puts it into DATA: uncompressed, with its length."""
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


async def read(reader: asyncio.StreamReader) -> Frame:
    """Return the next frame; raises IncompleteReadError at the end of the connection."""
    head = await reader.readexactly(9)
    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)


async def read_kind(reader: asyncio.StreamReader, kind: int) -> Frame:
    """Return the next frame of a kind, passing over others."""
    while (frame := await read(reader)).kind != kind:
        pass
    return frame
