import pytest

from cri_proxy.cli import numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (4_000_000, "4.0 MB"), (1.25e9, "1.2 GB")],
)
def test_bytes_are_written_in_their_largest_unit(count, text):
    assert numbers.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.017, "0.02 s"), (12.34, "12.3 s"), (59.99, "60.0 s"), (185, "3 min 05 s")],
)
def test_durations_have_a_readable_precision(seconds, text):
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_a_clock_counts_hours_only_when_there_are_some(seconds, text):
    assert numbers.clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "just now"),
        (-5, "just now"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (90000, "1 day ago"),
    ],
)
def test_ages_are_written_in_their_largest_unit(seconds, text):
    assert numbers.ago(seconds) == text


def test_one_is_singular():
    assert [numbers.counted(count, "path") for count in (0, 1, 2)] == [
        "0 paths",
        "1 path",
        "2 paths",
    ]
