"""HTTP/2 frames: parsing them without copying, and building them.

Each side of a connection has a `FrameReader`. It takes the bytes received from the socket and
returns a buffer with the positions of the complete frames in it, so that a run of frames can be
forwarded as one slice of that buffer. An incomplete frame at the end is kept until the rest
arrives. A frame longer than MAX_FRAME_SIZE is detected by its nine-byte header, before its payload
is buffered. The module knows the layout of frames, not what they mean.

Format: RFC 9113, sections 4 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
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

Frame = tuple[int, int, int, int, int]
"""A complete frame in a buffer: start of its header, end of its payload, kind, flags, stream."""

HEADER: Final = struct.Struct(">LBL")
"""A frame header: length (24 bits) and kind (8 bits) as one number, flags, R bit and stream."""

_FOUR_BYTES: Final = struct.Struct(">HBBBLL")
"""A frame with a four-byte payload: length (16 + 8 bits), kind, flags, stream, payload."""
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


class FrameReader:
    """Splits the bytes received from one side into frames."""

    __slots__ = ("_missing", "excess", "largest", "pieces")

    def __init__(self) -> None:
        self.largest = INITIAL_FRAME_BYTES
        """Payload bytes that a frame may have: the MAX_FRAME_SIZE announced, never lowered."""
        self.excess = False
        """`feed` met the header of a longer frame; nothing after it can be parsed."""
        self.pieces: list[bytes] = []
        """The start of an incomplete frame; callers that bypass `feed` must call `joined`."""
        self._missing = 0

    def feed(self, data: bytes) -> tuple[bytes, Sequence[Frame]]:
        """Return a buffer and its complete frames, in order and without gaps, from offset 0."""
        if self.pieces:
            data = self.joined(data)
        frames: list[Frame] = []
        unpack, append, largest = HEADER.unpack_from, frames.append, self.largest
        start, end = 0, len(data)
        while end - start >= HEADER_BYTES:
            head, flags, stream = unpack(data, start)
            length = head >> 8  # the low byte of `head` is the kind
            stop = start + HEADER_BYTES + length
            if length > largest:
                self.excess = True
                return data, frames
            if stop > end:
                break
            append((start, stop, head & 0xFF, flags, stream & LARGEST_STREAM))
            start = stop
        if start < end:
            self.keep(data[start:] if start else data)
        return data, frames

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
            raise too_long()
        self._missing = HEADER_BYTES + (head >> 8) - len(rest)


def build(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return WINDOW_UPDATE frames for `increment` bytes: more than one above 2**31 - 1."""
    if increment <= LARGEST_WINDOW:
        return _FOUR_BYTES.pack(0, 4, WINDOW_UPDATE, 0, stream, increment)
    first = _FOUR_BYTES.pack(0, 4, WINDOW_UPDATE, 0, stream, LARGEST_WINDOW)
    return first + window_update(stream, increment - LARGEST_WINDOW)


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return _FOUR_BYTES.pack(0, 4, RST_STREAM, 0, stream, code)


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """Return a GOAWAY frame: no stream after `last_stream` has been or will be processed."""
    return build(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + reason.encode())


def headers(stream: int, block: bytes, *, flags: int = 0, priority: bytes = b"") -> bytes:
    """Return a block as HEADERS and CONTINUATION frames; of `flags` only END_STREAM is used.

    Frames have at most 16 KiB of payload, which every peer must accept.
    """
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
    """Return the payload of a DATA or HEADERS frame without padding.

    Raises Violation if the padding fills the payload or exceeds it.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(PROTOCOL_ERROR, "padding exceeds the frame payload")
    return payload[1 : len(payload) - payload[0]]


def number(payload: bytes) -> int:
    """Return the WINDOW_UPDATE increment, RST_STREAM code or last stream of GOAWAY in a payload.

    Raises Violation if the payload is too short.
    """
    if len(payload) < 4:
        raise Violation(FRAME_SIZE_ERROR, "frame payload is shorter than 4 bytes")
    return int.from_bytes(payload[:4], "big")


def check_stream(kind: int, stream: int) -> None:
    """Raise Violation if a frame of this kind must not occur on this stream."""
    match kind:
        case 0x0 | 0x1 | 0x2 | 0x3:  # DATA, HEADERS, PRIORITY, RST_STREAM
            is_valid = stream % 2 == 1  # clients open the odd streams, servers must not push
        case 0x4 | 0x6 | 0x7:  # SETTINGS, PING, GOAWAY
            is_valid = stream == 0
        case _:
            is_valid = True
    if not is_valid:
        raise Violation(PROTOCOL_ERROR, f"{_KINDS[kind]} frame on stream {stream}")


def unexpected(kind: int) -> Violation:
    """Return the violation for a frame kind that is not allowed here."""
    return Violation(PROTOCOL_ERROR, f"unexpected {_KINDS[kind]} frame")


def too_long() -> Violation:
    """Return the violation for a frame that exceeds MAX_FRAME_SIZE."""
    return Violation(FRAME_SIZE_ERROR, "frame exceeds MAX_FRAME_SIZE")
