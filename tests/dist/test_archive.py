"""Archives are reproducible."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from hack.dist import archive


def test_times_owners_and_order_have_no_influence(tmp_path: Path) -> None:
    packed = []
    for name, files, moment in (("one", ("a", "b"), 1), ("two", ("b", "a"), 2)):
        top = tmp_path / name / "top"
        top.mkdir(parents=True)
        for each in files:
            (top / each).write_text(each)
            os.utime(top / each, (moment, moment))
        (top / "link").symlink_to("a")
        archive.pack(top, tmp_path / f"{name}.tar.gz", epoch=1_000_000_000)
        packed.append((tmp_path / f"{name}.tar.gz").read_bytes())

    assert packed[0] == packed[1]


def test_programs_stay_executable_and_belong_to_root(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "program").write_text("")
    (top / "program").chmod(0o700)
    archive.pack(top, tmp_path / "top.tar.gz", epoch=1)

    with tarfile.open(tmp_path / "top.tar.gz") as opened:
        member = opened.getmember("top/program")
        assert (member.mode, member.uid, member.uname, member.mtime) == (0o755, 0, "root", 1)
