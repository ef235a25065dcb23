"""Frames found in bytes, whatever the pieces these come in."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cri_proxy.router import frames

some_frames = st.lists(
    st.builds(
        frames.build,
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, frames.LARGEST_STREAM),
        st.binary(max_size=40),
    ),
    max_size=8,
)


@given(some_frames, st.lists(st.integers(1, 30)))
def test_frames_are_found_however_the_bytes_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    reader, found, rest = frames.FrameReader(), [], b"".join(sent)
    for size in [*cuts, len(rest)]:
        piece, rest = rest[:size], rest[size:]
        found += [frame for frame, *_ in reader.feed(piece)]

    assert found == sent
    assert not reader.pieces


def test_frame_longer_than_allowed_is_known_by_its_header() -> None:
    reader = frames.FrameReader()
    good = frames.build(frames.PING, 0, 0, b"12345678")

    found = reader.feed(good + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01")

    assert next(found) == (good, frames.PING, 0, 0)
    with pytest.raises(frames.Violation, match="frame exceeds MAX_FRAME_SIZE"):
        next(found)


def test_long_block_is_carried_by_continuations() -> None:
    block = bytes(40_000)

    reader = frames.FrameReader()
    found = list(reader.feed(frames.headers(5, block, flags=0xFF, priority=b"12345")))

    assert [kind for _, kind, _, _ in found] == [1, 9, 9]
    assert [flags for _, _, flags, _ in found] == [0x21, 0, 4]
    assert b"".join(frame[9:] for frame, *_ in found) == b"12345" + block


def test_grant_beyond_what_one_frame_can_say_takes_several() -> None:
    found = frames.FrameReader().feed(frames.window_update(0, frames.LARGEST_WINDOW + 5))

    assert len(list(found)) == 2


@pytest.mark.parametrize("payload", [b"", b"\x05abcd", b"\xff"])
def test_padding_as_long_as_the_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(frames.Violation):
        frames.unpadded(frames.PADDED, payload)
