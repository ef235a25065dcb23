"""Leases against another holder at each point of their life, without threads or chance."""

import os
import subprocess
import sys

import pytest

from cri_proxy.store.disk import leases


@pytest.fixture
def place(tmp_path):
    """An environment's directory with its record."""
    place = tmp_path / "environment"
    place.mkdir()
    (place / "environment.json").touch()
    return place


def test_many_share_and_a_claim_fails_until_all_have_released(place):
    shared = [leases.share(place) for _ in range(2)]

    assert leases.claim(place) is None
    shared[0].release()
    assert leases.claim(place) is None
    shared[1].release()
    claimed = leases.claim(place)
    assert claimed is not None
    claimed.release()


def test_sharing_fails_while_it_is_claimed(place):
    claimed = leases.claim(place)

    assert leases.share(place) is None
    claimed.release()
    leases.share(place).release()


def test_an_absent_environment_cannot_be_leased(place, tmp_path):
    with pytest.raises(FileNotFoundError):
        leases.share(tmp_path / "nothing")
    assert leases.claim(tmp_path / "nothing") is None


def test_a_lease_ends_with_its_process(place):
    program = (
        "import sys; from pathlib import Path; from cri_proxy.store.disk import leases;"
        f"lease = leases.share(Path({str(place)!r})); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=os.getcwd(),
    )
    assert holder.stdout.readline() == b"held\n"
    assert leases.claim(place) is None

    holder.kill()
    holder.communicate()

    leases.claim(place).release()


def test_the_last_start_is_the_time_of_the_record(place):
    os.utime(place / "environment.json", (1000, 1000))
    assert leases.last_start(place) == 1000

    leases.note_start(place)

    assert leases.last_start(place) > 1000
    leases.note_start(place / "nothing")


def test_the_oldest_realization_is_known_and_leases_of_dead_processes_are_removed(tmp_path):
    running = leases.Realizations(tmp_path)
    assert running.oldest() is None
    old, new = running.begin(), running.begin()
    (first, second) = sorted((tmp_path / ".leases").iterdir(), key=lambda each: each.stat().st_ino)
    os.utime(first, (1000, 1000))
    (tmp_path / ".leases" / "left-by-a-crash").touch()
    os.utime(tmp_path / ".leases" / "left-by-a-crash", (1, 1))

    assert leases.Realizations(tmp_path).oldest() == 1000
    assert sorted((tmp_path / ".leases").iterdir()) == sorted([first, second])
    old.release()
    new.release()
    assert running.oldest() is None
