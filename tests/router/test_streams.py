"""The table of streams: when one is over, and which may still come."""

from __future__ import annotations

from collections import Counter

import pytest

from cri_proxy.router import counting, frames
from cri_proxy.router.streams import ANSWER_OVER, ENDLESS, REQUEST_OVER, Streams

HALVES = (REQUEST_OVER, ANSWER_OVER)


@pytest.mark.parametrize("halves", [HALVES, HALVES[::-1]])
def test_stream_is_over_when_both_directions_are(halves: tuple[int, int]) -> None:
    streams = Streams(None)
    streams.begin(1, 0, b"")

    streams.half_over(1, halves[0])
    streams.half_over(1, halves[0])
    assert 1 in streams.open
    streams.half_over(1, halves[1])
    assert 1 not in streams.open


def test_end_of_a_stream_that_is_not_in_the_table_is_nobodys() -> None:
    streams = Streams(None)

    streams.half_over(1, REQUEST_OVER)
    streams.cancel(3)
    streams.reset(5, frames.CANCEL)

    assert not streams.open


def test_endless_streams_do_not_keep_the_table_busy() -> None:
    streams = Streams(None)
    streams.begin(1, ENDLESS | REQUEST_OVER, b"")
    assert streams.is_idle

    streams.begin(3, REQUEST_OVER, b"")
    assert not streams.is_idle
    streams.cancel(3)
    assert streams.is_idle


def test_bound_is_never_raised_again() -> None:
    streams = Streams(None)

    assert [streams.bound(last) for last in (7, 3, 5)] == [7, 3, 3]


def test_each_call_is_counted_once_by_the_first_end_that_it_has() -> None:
    counted: Counter[str] = Counter()
    table = counting.Table([], lambda _, status: counted.update([status]))
    streams = Streams(counting.Calls(table))
    for stream in 1, 3, 5:
        streams.begin(stream, 0, b"")

    streams.cancel(1)
    streams.reset(1, frames.REFUSED_STREAM)
    streams.reset(3, frames.ENHANCE_YOUR_CALM)
    streams.end_all(counting.UNAVAILABLE)
    streams.end_all(counting.CANCELLED)

    assert counted == {"CANCELLED": 1, "RESOURCE_EXHAUSTED": 1, "UNAVAILABLE": 1}
