"""Numbers that a person can follow."""

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


def test_nothing_known_yet_is_told_as_zero():
    assert str(Progress(Phase.FETCHING)) == "fetching 0/0 paths, 0.0/0.0 MB"


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.FETCHING])
def test_other_phases_are_told_by_their_name(phase):
    assert str(Progress(phase, paths_done=3, paths_total=3)) == phase.value


def test_realization_begins_by_resolving():
    assert Progress().phase is Phase.RESOLVING
