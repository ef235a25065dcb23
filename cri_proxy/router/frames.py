"""HTTP/2 frames: parsing and building them.

Each side of a connection has a `FrameReader`, which keeps an incomplete frame until the rest of it
arrives, and detects a frame longer than MAX_FRAME_SIZE by its nine-byte header, before its payload
is buffered. The module knows the layout of frames, not what they mean.

Format: RFC 9113, sections 4 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
PRIORITY_BYTES: Final = 5
INITIAL_WINDOW_BYTES: Final = 65_535
INITIAL_FRAME_BYTES: Final = 16_384
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_STREAM: Final = 2**31 - 1

Frame = tuple[bytes, int, int, int]
"""A complete frame: all its bytes, kind, flags, stream."""

HEADER: Final = struct.Struct(">LBL")
"""A frame header: length (24 bits) and kind (8 bits) as one number, flags, R bit and stream."""

_KINDS: Final = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)


class Violation(Exception):
    """A peer violated the protocol or exceeded a limit; GOAWAY carries this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True, eq=False)
class FrameReader:
    """Splits the bytes received from one side into frames."""

    largest: int = INITIAL_FRAME_BYTES
    """Payload bytes that a frame may have: the MAX_FRAME_SIZE announced, never lowered."""
    pieces: list[bytes] = field(default_factory=list)
    """The start of an incomplete frame; callers that bypass `feed` must call `joined`."""
    _missing: int = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now; raises Violation at one that is too long."""
        if self.pieces:
            data = self.joined(data)
        start, end = 0, len(data)
        while end - start >= HEADER_BYTES:
            head, flags, stream = HEADER.unpack_from(data, start)
            length = head >> 8  # the low byte of `head` is the kind
            stop = start + HEADER_BYTES + length
            if stop > end or length > self.largest:
                break  # incomplete, or too long: `keep` distinguishes them
            yield data[start:stop], head & 0xFF, flags, stream & LARGEST_STREAM
            start = stop
        if start < end:
            self.keep(data[start:])

    def joined(self, data: bytes) -> bytes:
        """Return the kept bytes and `data` as one, or nothing if the frame is still incomplete."""
        self.pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        whole = b"".join(self.pieces)
        self.pieces.clear()
        return whole

    def keep(self, rest: bytes) -> None:
        """Keep the start of an incomplete frame; raises Violation if the frame is too long."""
        self.pieces.append(rest)
        if len(rest) < HEADER_BYTES:
            self._missing = HEADER_BYTES - len(rest)
            return
        head, *_ = HEADER.unpack_from(rest)
        if head >> 8 > self.largest:
            raise Violation(FRAME_SIZE_ERROR, "frame exceeds MAX_FRAME_SIZE")
        self._missing = HEADER_BYTES + (head >> 8) - len(rest)


def build(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return WINDOW_UPDATE frames for `increment` bytes: more than one above 2**31 - 1."""
    first = min(increment, LARGEST_WINDOW)
    frame = build(WINDOW_UPDATE, 0, stream, first.to_bytes(4, "big"))
    return frame if first == increment else frame + window_update(stream, increment - first)


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return build(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """Return a GOAWAY frame: no stream after `last_stream` has been or will be processed."""
    return build(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + reason.encode())


def headers(stream: int, block: bytes, *, flags: int = 0, priority: bytes = b"") -> bytes:
    """Return a block as frames of at most 16 KiB; of `flags` only END_STREAM is used."""
    largest = INITIAL_FRAME_BYTES
    flags &= END_STREAM
    if priority:
        flags |= PRIORITIZED
    room = largest - len(priority)
    if len(block) <= room:
        return build(HEADERS, flags | END_HEADERS, stream, priority + block)
    pieces = [build(HEADERS, flags, stream, priority + block[:room])]
    for place in range(room, len(block), largest):
        is_last = place + largest >= len(block)
        piece = block[place : place + largest]
        pieces.append(build(CONTINUATION, END_HEADERS if is_last else 0, stream, piece))
    return b"".join(pieces)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return a DATA or HEADERS payload without padding; raise Violation if that is malformed."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(PROTOCOL_ERROR, "padding exceeds the frame payload")
    return payload[1 : len(payload) - payload[0]]


def number(payload: bytes) -> int:
    """Return the number in a WINDOW_UPDATE, RST_STREAM or GOAWAY; raise Violation if too short."""
    if len(payload) < 4:
        raise Violation(FRAME_SIZE_ERROR, "frame payload is shorter than 4 bytes")
    return int.from_bytes(payload[:4], "big")


def check_stream(kind: int, stream: int) -> None:
    """Raise Violation if a frame of this kind must not occur on this stream."""
    if kind in (DATA, HEADERS, PRIORITY, RST_STREAM):
        is_valid = stream % 2 == 1  # clients open the odd streams, servers must not push
    else:
        is_valid = not stream or kind not in (SETTINGS, PING, GOAWAY)
    if not is_valid:
        raise Violation(PROTOCOL_ERROR, f"{_KINDS[kind]} frame on stream {stream}")


def unexpected(kind: int) -> Violation:
    """Return the violation for a frame kind that is not allowed here."""
    return Violation(PROTOCOL_ERROR, f"unexpected {_KINDS[kind]} frame")
