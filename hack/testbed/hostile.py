"""Hostile HTTP/2 input for the router's core: any number of connections, each from a seed.

    python -m hack.testbed.hostile 1000000

Each input is one connection: partly valid frames with lengths, kinds, flags and streams near the
limits, header blocks of all kinds, and random bytes, on all three sides, truncated anywhere. For
each the core must not raise an exception, a closed connection must stay closed, and buffers and
answers must stay small in proportion to the input.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from typing import Final

import hpack

from cri_proxy.router import counting, frames
from cri_proxy.router.connection import Connection, Side
from hack.testbed.http2 import INTERPOSED, MATCHER, OTHER, request_of

_BLOCKS: Final = (
    hpack.Encoder().encode(request_of(OTHER)),
    hpack.Encoder().encode(request_of(INTERPOSED)),
    b"\x20" + hpack.Encoder().encode(request_of(INTERPOSED), huffman=False),
    b"\x20\x82\x86",
    b"\x20",
    b"\x3f\xe1\x1f\x82",
    b"\x20\x3f\xe1\x1f",
    b"\xbe" * 50,
    b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 3000,
    b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    b"",
)
_STREAMS: Final = (0, 1, 1, 1, 3, 3, 5, 7, 2, 9, 11, 2**31 - 1, 2**32 - 1)
_NUMBERS: Final = (0, 1, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 16_384, 100)


def connection(dice: random.Random) -> None:
    """Run the core with one hostile connection; raise AssertionError if it misbehaves."""
    core = Connection(MATCHER, counting.Table([OTHER], _count))
    wildness = dice.choice((0.0, 0.02, 0.1, 0.5))
    given = 0
    if dice.random() < 0.95:
        given += _receive(core, Side.DOWNSTREAM, frames.PREFACE + _settings(dice), dice)
    if dice.random() < 0.9:
        given += _receive(core, Side.UPSTREAM, _settings(dice), dice)
    for turn in range(dice.randrange(1, 40)):
        side = dice.choice((Side.DOWNSTREAM,) * 4 + (Side.UPSTREAM,) * 2 + (Side.INTERPOSER,))
        if side is Side.INTERPOSER and not core.has_interposer:
            continue
        data = b"".join(
            _frame(dice) if dice.random() < wildness else _plausible(dice, side, turn)
            for _ in range(dice.randrange(1, 6))
        )
        given += _receive(core, side, data, dice)
        match dice.randrange(40):
            case 0:
                core.drain()
            case 1:
                core.interposer_lost("lost")
            case 2:
                core.pause(dice.choice(tuple(Side)))
            case 3:
                core.resume(dice.choice(tuple(Side)))
            case 4:
                core.upstream_lost()
    kept = sum(map(len, core.to_downstream + core.to_upstream + core.to_interposer))
    response_flow, request_flow = core._response_flow, core._request_flow
    kept += sum(len(each.raw) for each in response_flow.held) + request_flow.queued_bytes
    assert kept <= 20 * given + 5_000, (kept, given)
    assert response_flow.room >= 0
    assert request_flow.queued_bytes >= 0
    if core.is_over:
        before = len(core.to_downstream)
        core.receive_downstream(_frame(dice))
        assert len(core.to_downstream) == before


def _count(method: str, status: str) -> None:
    assert method in (OTHER[1:], counting.OTHER)
    assert status in counting.STATUSES


def _receive(core: Connection, side: Side, data: bytes, dice: random.Random) -> int:
    receive = {
        Side.DOWNSTREAM: core.receive_downstream,
        Side.UPSTREAM: core.receive_upstream,
        Side.INTERPOSER: core.receive_interposer,
    }[side]
    place = 0
    while place < len(data):
        size = dice.choice((1, 9, 10, 100, 1 << 20)) if dice.random() < 0.3 else len(data)
        receive(data[place : place + size])
        place += size
        if core.wants_interposer:
            if dice.random() < 0.8:
                core.interposer_opened()
            else:
                core.interposer_lost("not there")
    return len(data)


def _settings(dice: random.Random) -> bytes:
    pairs = [(dice.randrange(0, 9), dice.choice(_NUMBERS)) for _ in range(dice.randrange(4))]
    return frames.build(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *p) for p in pairs))


def _plausible(dice: random.Random, side: Side, turn: int) -> bytes:
    """Return a frame that a sane peer could send, but perhaps not in this state."""
    stream = 2 * dice.randrange(max(1, turn)) + 1
    end = dice.randrange(2)
    match dice.randrange(8):
        case 0:
            return _settings(dice)
        case 1:
            return frames.build(frames.PING, 0, 0, b"12345678")
        case 2:
            return frames.window_update(dice.choice((0, stream)), dice.choice((1, 100, 70_000)))
        case 3:
            return frames.rst_stream(stream, 8)
        case 4 | 5:
            return frames.build(frames.DATA, end, stream, bytes(dice.choice((0, 5, 9_000))))
        case _ if side is Side.DOWNSTREAM:
            block = dice.choice(_BLOCKS[:3])
            if dice.random() < 0.2:
                head = frames.build(frames.HEADERS, end, 2 * turn + 1, block[:20])
                return head + frames.build(frames.CONTINUATION, 4, 2 * turn + 1, block[20:])
            return frames.build(frames.HEADERS, 4 | end, 2 * turn + 1, block)
        case _:
            return frames.build(frames.HEADERS, 4 | end, stream, dice.choice(_BLOCKS[3:5]))


def _frame(dice: random.Random) -> bytes:
    kind = dice.choice((*range(11), 0, 0, 1, 1, 1, 8, 8, 9, 255))
    flags = dice.choice((0, 1, 4, 5, 5, 4, 8, 0x20, 0x2D, 0xFF))
    stream = dice.choice(_STREAMS)
    match dice.randrange(12):
        case 0:
            return dice.randbytes(dice.randrange(40))
        case 1:
            return _settings(dice)
        case 2:
            length = dice.choice((16_384, 16_385, 1 << 20, (1 << 24) - 1))
            return struct.pack(">HBBBL", length >> 8, length & 255, kind, flags, stream)
    match kind:
        case frames.HEADERS | frames.CONTINUATION | frames.PUSH_PROMISE:
            payload = dice.choice(_BLOCKS)
        case frames.WINDOW_UPDATE | frames.RST_STREAM:
            payload = struct.pack(">L", dice.choice(_NUMBERS))
        case frames.GOAWAY:
            payload = struct.pack(">LL", dice.choice(_NUMBERS), 0)
        case frames.PING:
            payload = dice.choice((b"12345678", b"cripxdrn", b""))
        case _:
            payload = bytes(dice.choice((0, 1, 6, 100, 5_000, 16_384)))
    if dice.random() < 0.05:
        payload = payload[: dice.randrange(len(payload) + 1)]
    return frames.build(kind, flags, stream, payload)


def main() -> None:
    """Run the given number of connections, and print the seed that broke the core, if any."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            connection(random.Random(seed))
        except BaseException:
            print(f"seed {seed} broke the core")
            raise
    took = time.monotonic() - began
    print(f"{count} hostile connections in {took:.0f} s, none broke the core")


if __name__ == "__main__":
    main()
