"""HTTP/2 frames on the wire: found in a stream of bytes without copying, and built.

A `Reader` stands at the mouth of each side of a connection. It is fed what the socket gave and
answers with a buffer and the places of the whole frames in it, so that a run of frames which may
pass goes on as one slice of that buffer; the beginning of a frame whose end has not come yet waits
in the reader. A frame longer than its sender was allowed is found by its first nine bytes, before
it is stored. What a frame means is not this module's business.

The format is RFC 9113, section 4 and 6.
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
STREAM_CLOSED: Final = 0x5
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
"""A whole frame in a buffer: where its header starts, where its payload stops, kind, flags, stream.

A bare tuple, because one is made for every frame that passes.
"""

HEADER: Final = struct.Struct(">LBL")
"""A frame's header: length and kind in one number, flags, stream with its reserved bit."""

_PREFIXED: Final = struct.Struct(">HBBBLL")


class Violation(Exception):
    """A peer broke the protocol, or one of our bounds; its connection ends with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameReader:
    """The frames of one side, whatever the pieces in which its bytes arrive."""

    __slots__ = ("_missing", "excess", "largest", "pieces")

    def __init__(self) -> None:
        self.largest = INITIAL_FRAME_BYTES
        """Bytes of payload that a frame may have; what the sender has been told, never lowered."""
        self.excess = False
        """`feed` was announced a longer frame; what comes from this side now is worthless."""
        self.pieces: list[bytes] = []
        """The beginning of a frame; whoever reads without `feed` calls `joined` if there is one."""
        self._missing = 0

    def feed(self, data: bytes) -> tuple[bytes, Sequence[Frame]]:
        """Return a buffer and its whole frames, in order and without gaps, from offset 0."""
        if self.pieces:
            data = self.joined(data)
        frames: list[Frame] = []
        unpack, append, largest = HEADER.unpack_from, frames.append, self.largest
        start, end = 0, len(data)
        while end - start >= HEADER_BYTES:
            head, flags, stream = unpack(data, start)
            length = head >> 8
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
        """Return what waits and what came as one; nothing if a frame's end has still not come."""
        self.pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        whole = b"".join(self.pieces)
        self.pieces.clear()
        return whole

    def keep(self, rest: bytes) -> None:
        """Let the beginning of a frame wait for its end; raises Violation if that is too far."""
        self.pieces.append(rest)
        if len(rest) < HEADER_BYTES:
            self._missing = HEADER_BYTES - len(rest)
            return
        head, *_ = HEADER.unpack_from(rest)
        if head >> 8 > self.largest:
            raise Violation(FRAME_SIZE_ERROR, "a frame is too long")
        self._missing = HEADER_BYTES + (head >> 8) - len(rest)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a frame whose end has not come yet."""
        return sum(map(len, self.pieces))


def build(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return the frames that grant `increment` bytes, which may exceed what one frame can say."""
    if increment <= LARGEST_WINDOW:
        return _PREFIXED.pack(0, 4, WINDOW_UPDATE, 0, stream, increment)
    first = _PREFIXED.pack(0, 4, WINDOW_UPDATE, 0, stream, LARGEST_WINDOW)
    return first + window_update(stream, increment - LARGEST_WINDOW)


def rst_stream(stream: int, code: int) -> bytes:
    """Return a frame that ends a stream at once."""
    return _PREFIXED.pack(0, 4, RST_STREAM, 0, stream, code)


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """Return a frame that ends a connection: nothing after `last_stream` has been looked at."""
    return build(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + reason.encode())


def headers(stream: int, block: bytes, *, flags: int = 0, priority: bytes = b"") -> bytes:
    """Return HEADERS and as many CONTINUATION as a block needs; of `flags`, END_STREAM counts.

    No frame is longer than every peer takes, whatever it may have announced since.
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

    Raises Violation if the padding is as long as the payload or longer.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(PROTOCOL_ERROR, "padding exceeds the frame")
    return payload[1 : len(payload) - payload[0]]


def number(payload: bytes) -> int:
    """Return the number of a WINDOW_UPDATE, a RST_STREAM code or a GOAWAY's last stream.

    Raises Violation if there is no room for one.
    """
    if len(payload) < 4:
        raise Violation(FRAME_SIZE_ERROR, "the frame is too short")
    return int.from_bytes(payload[:4], "big")


def check_stream(kind: int, stream: int) -> None:
    """Raise Violation if a frame belongs to a stream and has none, or the other way round."""
    match kind:
        case 0x0 | 0x1 | 0x2 | 0x3:  # DATA, HEADERS, PRIORITY, RST_STREAM
            is_right = stream % 2 == 1
        case 0x4 | 0x6 | 0x7:  # SETTINGS, PING, GOAWAY
            is_right = stream == 0
        case _:
            is_right = True
    if not is_right:
        raise Violation(PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream}")


def misplaced(kind: int) -> Violation:
    """Return what a frame of this kind is here."""
    return Violation(PROTOCOL_ERROR, f"a frame of kind {kind} has no place here")
