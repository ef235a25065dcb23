"""SETTINGS: what is forwarded of them, and when they take effect."""

from __future__ import annotations

import struct

import pytest

from cri_proxy.router import frames, http2settings
from cri_proxy.router.http2settings import (
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    EffectiveWindow,
    HeaderTableLimit,
    Http2Settings,
)


def setting(identifier: int, value: int) -> bytes:
    return struct.pack(">HL", identifier, value)


_FRAME_SIZE = setting(MAX_FRAME_SIZE, 16_384)


def test_settings_are_forwarded_without_the_table_size() -> None:
    payload = setting(HEADER_TABLE_SIZE, 8192) + _FRAME_SIZE

    forwarded, _ = Http2Settings().update(payload)

    assert forwarded == _FRAME_SIZE


@pytest.mark.parametrize(
    ("announced", "forwarded", "bound"),
    [
        (1 << 18, 1 << 18, 1 << 18),
        ((1 << 24) - 1, 1 << 20, 1 << 20),
        (1 << 24, 1 << 24, 16_384),
        (0, 0, 16_384),
    ],
)
def test_frame_size_is_capped_unless_it_is_invalid(
    announced: int, forwarded: int, bound: int
) -> None:
    settings = Http2Settings()

    result, _ = settings.update(setting(MAX_FRAME_SIZE, announced))

    assert result == setting(MAX_FRAME_SIZE, forwarded)
    assert settings.frame_bytes == bound


def test_settings_of_a_length_that_is_no_multiple_are_refused() -> None:
    with pytest.raises(frames.Violation):
        Http2Settings().update(bytes(7))


def test_side_that_joins_late_gets_the_rest_with_default_sizes() -> None:
    settings = Http2Settings()
    other = setting(0x99, 7)
    settings.update(_FRAME_SIZE + setting(INITIAL_WINDOW_SIZE, 1 << 20) + other)

    assert settings.summary() == http2settings.STATELESS + other


def test_acknowledgement_of_our_limit_is_the_one_in_its_place() -> None:
    limit = HeaderTableLimit()
    limit.forwarded()
    limit.forwarded()
    announced = limit.announce()
    limit.forwarded()

    assert announced == frames.build(frames.SETTINGS, 0, 0, bytes([0, 1, 0, 0, 0, 0]))
    assert [limit.acknowledge() for _ in range(4)] == [False, False, True, False]


def test_acknowledgement_of_nothing_is_not_ours() -> None:
    limit = HeaderTableLimit()

    assert not limit.acknowledge()
    limit.announce()
    assert not limit.is_acknowledged
    assert limit.acknowledge()


def test_reduced_window_takes_effect_at_once_and_a_larger_one_with_its_acknowledgement() -> None:
    window = EffectiveWindow()

    assert window.announce(100) == 100 - 65_535
    assert window.announce(1 << 20) == 0
    assert window.acknowledge() == 0
    assert window.acknowledge() == (1 << 20) - 100
    assert window.window_bytes == 1 << 20


def test_settings_in_flight_are_bounded() -> None:
    window = EffectiveWindow()
    for _ in range(http2settings.LARGEST_PENDING):
        window.announce(1)

    with pytest.raises(frames.Violation):
        window.announce(1)
