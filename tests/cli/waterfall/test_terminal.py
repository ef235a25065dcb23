"""Bars and durations as characters."""

from __future__ import annotations

import pytest

from cri_proxy.cli.waterfall import terminal


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 100, "██████████"),
        (50, 100, "     █████"),
        (0, 25, "██▌       "),
        (99, 100, "         ▏"),
        (100, 100, "         ▏"),
        (40, 40, "    ▏     "),
        (-50, 20, "██        "),
        (50, 900, "     █████"),
    ],
)
def test_a_bar_is_to_scale_and_never_quite_empty(start: int, end: int, expected: str) -> None:
    assert terminal.bar(start, end, 100, 10) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (0.00084, "840 µs"), (0.0123, "12 ms"), (2.314, "2.31 s"), (90, "1 min 30 s")],
)
def test_durations_have_the_resolution_of_a_startup(seconds: float, expected: str) -> None:
    assert terminal.duration(seconds) == expected
