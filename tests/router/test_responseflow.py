"""Flow control of responses: what is sent to downstream, what is held, what is granted."""

from __future__ import annotations

import pytest

from cri_proxy.router import frames
from cri_proxy.router.responseflow import (
    INTERPOSER_WINDOW_BYTES,
    Refund,
    ResponseFlow,
    ResponseWindow,
)

WINDOW = frames.INITIAL_WINDOW_BYTES
OURS, THEIRS = 1, 3


def data(stream: int, size: int, *, flags: int = 0) -> bytes:
    return frames.build(frames.DATA, flags, stream, bytes(size))


def test_data_of_the_interposer_is_withheld_from_the_next_grants_to_upstream() -> None:
    flow = ResponseFlow([])
    flow.put(OURS, data(OURS, 1000), 1000, is_interposed=True)

    assert flow.debt == 1000
    assert [flow.grant(600), flow.grant(600)] == [0, 200]


def test_frame_without_room_is_held_and_so_are_later_frames_of_its_stream() -> None:
    out: list[bytes] = []
    flow = ResponseFlow(out)
    flow.put(OURS, data(OURS, WINDOW), WINDOW, is_interposed=True)
    held = data(THEIRS, 10)
    trailers = frames.headers(THEIRS, b"\x20", flags=frames.END_STREAM)
    other = frames.headers(5, b"\x20")
    for stream, raw, size in ((THEIRS, held, 10), (THEIRS, trailers, 0), (5, other, 0)):
        flow.put(stream, raw, size, is_interposed=False)

    assert out[1:] == [other]
    flow.grant(10)
    assert flow.release() == []
    assert out[2:] == [held, trailers]
    assert not flow.held_streams


def test_held_frame_is_split_to_fit_and_its_padding_refunded() -> None:
    out: list[bytes] = []
    flow = ResponseFlow(out)
    flow.put(OURS, data(OURS, WINDOW - 4), WINDOW - 4, is_interposed=True)
    padded = frames.build(frames.DATA, frames.PADDED | frames.END_STREAM, THEIRS, b"\x02abcdef__")
    flow.put(THEIRS, padded, 9, is_interposed=False)

    assert flow.release() == [Refund(False, THEIRS, 3)]
    flow.grant(2)
    assert flow.release() == []

    assert out[1:] == [
        frames.build(frames.DATA, 0, THEIRS, b"abcd"),
        frames.build(frames.DATA, frames.END_STREAM, THEIRS, b"ef"),
    ]
    assert flow.room == 0


def test_sender_beyond_its_window_is_a_violation() -> None:
    flow = ResponseFlow([])
    with pytest.raises(frames.Violation):
        flow.put(THEIRS, data(THEIRS, WINDOW + 1), WINDOW + 1, is_interposed=False)
    with pytest.raises(frames.Violation):
        flow.receive(INTERPOSER_WINDOW_BYTES + 1)
    with pytest.raises(frames.Violation):
        flow.grant(frames.LARGEST_WINDOW)


def test_interposer_is_granted_half_a_window_at_a_time() -> None:
    flow = ResponseFlow([])
    half = INTERPOSER_WINDOW_BYTES // 2
    flow.receive(half)
    flow.drop(half - 1)
    assert flow.interposer_grant() == 0

    flow.drop(1)
    assert flow.interposer_grant() == half
    assert flow.interposer_grant() == 0


def test_stream_window_grants_what_downstream_accepts_beyond_the_default() -> None:
    window = ResponseWindow(WINDOW + 100)

    assert [window.surplus(), window.surplus()] == [100, 0]


def test_stream_window_yields_what_fits_and_queues_the_rest() -> None:
    window = ResponseWindow(5)
    whole = frames.build(frames.DATA, frames.END_STREAM, OURS, b"abcdefgh")
    assert window.put(whole, 8) == 0

    assert list(window.ready()) == [(frames.build(frames.DATA, 0, OURS, b"abcde"), 5)]
    window.room += 5
    rest = frames.build(frames.DATA, frames.END_STREAM, OURS, b"fgh")
    assert list(window.ready()) == [(rest, 3)]
    assert not window.queued_bytes


def test_interposer_beyond_its_stream_window_is_a_violation() -> None:
    window = ResponseWindow(WINDOW)

    with pytest.raises(frames.Violation):
        window.put(data(OURS, WINDOW + 1), WINDOW + 1)
