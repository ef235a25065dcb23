"""Numbers that a person can follow."""

import re
import time

import pytest

from cri_proxy.model.progress import Phase, Progress


def test_fetching_tells_paths_and_gigabytes():
    progress = Progress(
        Phase.FETCHING,
        paths_done=120,
        paths_total=300,
        bytes_done=400_000_000,
        bytes_total=1_100_000_000,
    )

    assert str(progress) == "fetching 120/300 paths, 0.4/1.1 GB"


def test_small_totals_are_told_in_megabytes():
    progress = Progress(Phase.FETCHING, 1, 2, bytes_done=500_000, bytes_total=999_000_000)

    assert str(progress) == "fetching 1/2 paths, 0.5/999.0 MB"


def test_rate_and_what_is_left_are_told_of_what_was_fetched():
    progress = Progress(
        Phase.FETCHING,
        paths_done=2,
        paths_total=3,
        bytes_done=300_000_000,
        bytes_total=900_000_000,
        bytes_present=100_000_000,
        fetching_since=time.monotonic() - 1000,
    )

    told = r"fetching 2/3 paths, 300.0/900.0 MB, 0.2 MB/s, 3\d\d\d s left"
    assert re.fullmatch(told, str(progress))


def test_nothing_known_yet_is_told_as_zero():
    assert str(Progress(Phase.FETCHING)) == "fetching 0/0 paths, 0.0/0.0 MB"


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.FETCHING])
def test_other_phases_are_told_by_their_name(phase):
    assert str(Progress(phase, paths_done=3, paths_total=3)) == phase.value


def test_realization_begins_by_resolving():
    assert Progress().phase is Phase.RESOLVING
