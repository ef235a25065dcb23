import errno

import pytest

from cri_proxy.lib import exchange


def test_two_directories_change_places_with_all_that_is_in_them(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in-{name}").touch()

    exchange.swap(tmp_path / "one", tmp_path / "other")

    assert [each.name for each in (tmp_path / "one").iterdir()] == ["in-other"]
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["in-one"]


def test_both_must_exist(tmp_path):
    (tmp_path / "one").mkdir()

    with pytest.raises(OSError, match="No such file") as failed:
        exchange.swap(tmp_path / "one", tmp_path / "other")

    assert failed.value.errno == errno.ENOENT
    assert (tmp_path / "one").is_dir()
