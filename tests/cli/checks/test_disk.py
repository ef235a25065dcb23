from pathlib import Path

import pytest

from cri_proxy.cli.checks import disk
from cri_proxy.cli.checks.findings import CheckStatus

MOUNTS = r"""
21 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
22 21 0:20 / /var rw,noexec - xfs /dev/sdb rw
23 22 0:21 / /var/lib rw,relatime - xfs /dev/sdc rw
24 23 0:22 / /var/lib/a\040b ro,relatime - btrfs /dev/sdd rw
25 21 0:23 / /tmp rw - tmpfs tmpfs rw,size=1g
26 21 0:24 / /net rw master:3 - nfs4 server:/x rw
27 21 0:25 / /cool rw - ext4 /dev/sde ro
28 26 0:26 / /net rw - ext4 /dev/sdf rw
""".strip()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "/"),
        ("/var/lib", "/var/lib"),
        ("/var/library", "/var"),
        ("/var/lib/a b/c", "/var/lib/a b"),
    ],
)
def test_the_mount_of_a_path_is_the_deepest_above_it(path, place):
    assert disk.mount_of(Path(path), MOUNTS).place == Path(place)


def test_of_two_mounts_in_one_place_the_later_one_is_seen():
    assert disk.mount_of(Path("/net/x"), MOUNTS).kind == "ext4"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("rw - ext4 /dev/x rw", "ok"),
        ("ro - ext4 /dev/x rw", "fail"),
        ("rw - ext4 /dev/x ro", "fail"),
        ("rw,noexec - ext4 /dev/x rw", "fail"),
        ("rw - tmpfs tmpfs rw", "warn"),
        ("rw - nfs4 a:/b rw", "warn"),
        ("rw shared:1 master:2 - btrfs /dev/x rw", "ok"),
    ],
)
def test_a_file_system_is_judged_by_its_kind_and_options(tmp_path, line, status):
    assert disk.file_system(tmp_path, f"1 0 8:1 / / {line}").status == status


def test_this_machines_own_file_system_is_found(tmp_path):
    finding = disk.file_system(tmp_path, Path("/proc/self/mountinfo").read_text())

    assert "unknown" not in finding.found


def test_a_store_that_is_not_there_yet_can_be_made(tmp_path):
    finding = disk.place(tmp_path / "a" / "b")

    assert finding.status is CheckStatus.OK
    assert "created at the first start" in finding.found


def test_a_store_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()

    assert disk.place(tmp_path / "file" / "store").status is CheckStatus.FAIL


def test_hard_links_are_tried_and_nothing_is_left(tmp_path):
    assert disk.hard_links(tmp_path / "store").status is CheckStatus.OK
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_be_written_to_has_no_hard_links():
    assert disk.hard_links(Path("/proc")).status is CheckStatus.FAIL


def test_free_space_is_reported(tmp_path):
    assert " free of " in disk.space(tmp_path).found


def test_no_free_space_at_all_fails():
    assert disk.space(Path("/proc")).status is CheckStatus.FAIL
