"""Timings are listed in the order of their ends, also those of a part that failed."""

from __future__ import annotations

import pytest

from cri_proxy.lib import codec
from cri_proxy.lib.timings import Timing, Timings


def test_timings_have_name_beginning_and_end() -> None:
    timings = Timings()
    with timings("outer"), timings("inner"):
        pass

    (inner, outer) = codec.decode(codec.encode(timings.taken), list[Timing])

    assert (inner[0], outer[0]) == ("inner", "outer")
    assert outer[1] <= inner[1] <= inner[2] <= outer[2]


def test_a_part_that_failed_is_timed() -> None:
    timings = Timings()
    with pytest.raises(ValueError, match="broke"), timings("work"):
        raise ValueError("broke")

    assert [name for name, _, _ in timings.taken] == ["work"]
