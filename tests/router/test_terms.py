"""What the sides are told of each other's SETTINGS."""

from __future__ import annotations

import struct

from cri_proxy.router import frames
from cri_proxy.router.terms import HEADER_TABLE_SIZE, MAX_FRAME_SIZE, Limit, Terms

_FRAME_SIZE = struct.pack(">HL", MAX_FRAME_SIZE, 16_384)


def test_settings_pass_without_the_table_size() -> None:
    payload = struct.pack(">HL", HEADER_TABLE_SIZE, 8192) + _FRAME_SIZE

    told, _ = Terms().announce(payload)

    assert told == _FRAME_SIZE


def test_acknowledgement_of_our_limit_is_the_one_in_its_place() -> None:
    limit = Limit()
    limit.passed()
    limit.passed()
    told = limit.tell()
    limit.passed()

    assert told == frames.build(frames.SETTINGS, 0, 0, bytes([0, 1, 0, 0, 0, 0]))
    assert [limit.acknowledge() for _ in range(4)] == [False, False, True, False]


def test_acknowledgement_of_nothing_is_not_ours() -> None:
    limit = Limit()

    assert not limit.acknowledge()
    limit.tell()
    assert not limit.is_acknowledged
    assert limit.acknowledge()
