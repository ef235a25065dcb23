"""Overlay mounts, made by the kernel of this machine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.lib import mounts

pytestmark = pytest.mark.e2e  # for root only


@pytest.fixture(params=["plain", "a,b", "a:b", "a\\b", "a b", "a\\,:=b", "a,upperdir=b"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory with an awkward name, and in it the four that a mount needs."""
    directory = tmp_path / request.param
    for name in ("lower", "upper", "work", "place"):
        (directory / name).mkdir(parents=True)
    yield directory
    mounts.detach(directory / "place")


def mount(directory: Path) -> Path:
    place = directory / "place"
    mounts.overlay(directory / "lower", directory / "upper", directory / "work", place)
    return place


def test_writes_go_to_the_upper_directory(directory: Path) -> None:
    (directory / "lower" / "file").write_text("below")
    (directory / "elsewhere").hardlink_to(directory / "lower" / "file")

    place = mount(directory)
    (place / "file").write_text("above")

    assert (directory / "upper" / "file").read_text() == "above"
    assert (directory / "lower" / "file").read_text() == "below"
    assert (directory / "elsewhere").read_text() == "below"


def test_detaching_unmounts_all_that_is_mounted_there_however_often(directory: Path) -> None:
    (directory / "lower" / "file").touch()
    mount(directory)
    mount_again = directory / "again"
    for name in ("upper", "work"):
        (mount_again / name).mkdir(parents=True)
    mounts.overlay(
        directory / "lower", mount_again / "upper", mount_again / "work", directory / "place"
    )

    for _ in range(2):
        mounts.detach(directory / "place")

    assert list((directory / "place").iterdir()) == []


def test_detaching_an_absent_mount_does_nothing(tmp_path: Path) -> None:
    mounts.detach(tmp_path / "absent")


def test_the_kernels_refusal_is_raised_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="place") as refused:
        mounts.overlay(tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "place")

    assert refused.value.errno == errno.ENOENT
