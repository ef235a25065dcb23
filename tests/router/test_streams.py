"""The table of streams: when one ends, and which are still accepted."""

from __future__ import annotations

from collections import Counter

import pytest

from cri_proxy.router import counting, frames
from cri_proxy.router.streams import ENDLESS, REQUEST_ENDED, RESPONSE_ENDED, Streams

HALVES = (REQUEST_ENDED, RESPONSE_ENDED)


@pytest.mark.parametrize("halves", [HALVES, HALVES[::-1]])
def test_stream_ends_when_both_directions_have(halves: tuple[int, int]) -> None:
    streams = Streams(None)
    streams.begin(1, 0, b"")

    streams.half_close(1, halves[0])
    streams.half_close(1, halves[0])
    assert 1 in streams.open
    streams.half_close(1, halves[1])
    assert 1 not in streams.open


def test_end_of_a_stream_that_is_not_in_the_table_is_ignored() -> None:
    streams = Streams(None)

    streams.half_close(1, REQUEST_ENDED)
    streams.cancel(3)
    streams.reset(5, frames.CANCEL)

    assert not streams.open


def test_endless_streams_do_not_keep_the_table_busy() -> None:
    streams = Streams(None)
    streams.begin(1, ENDLESS | REQUEST_ENDED, b"")
    assert streams.is_idle

    streams.begin(3, REQUEST_ENDED, b"")
    assert not streams.is_idle
    streams.cancel(3)
    assert streams.is_idle


def test_limit_never_rises() -> None:
    streams = Streams(None)

    assert [streams.limit(last) for last in (7, 3, 5)] == [7, 3, 3]


def test_each_call_is_counted_once_by_its_first_end() -> None:
    counted: Counter[str] = Counter()
    table = counting.Table([], lambda _, status: counted.update([status]))
    streams = Streams(table)
    for stream in 1, 3, 5:
        streams.begin(stream, 0, b"")

    streams.cancel(1)
    streams.reset(1, frames.REFUSED_STREAM)
    streams.reset(3, frames.ENHANCE_YOUR_CALM)
    streams.end_all(counting.UNAVAILABLE)
    streams.end_all(counting.CANCELLED)

    assert counted == {"CANCELLED": 1, "RESOURCE_EXHAUSTED": 1, "UNAVAILABLE": 1}
