"""Grounds: fresh file systems to measure on.

Creating files on an ext4 from which many were deleted a moment ago is up to twenty times slower
for a minute, and a disk that others use is slow whenever they like. So every run gets an ext4 of
its own whose blocks are in memory, and nothing on it is deleted: it goes as a whole.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")
_GIBIBYTE: Final = 1024**3


@contextlib.contextmanager
def fresh(*, gibibytes: int = 4) -> Iterator[Path]:
    """Give the directory of a new ext4 in memory, for the time of a with statement.

    Only what is written to it takes memory. Needs root and a loop device.
    """
    with tempfile.TemporaryDirectory(prefix="cri-proxy-bench-", dir=_MEMORY) as directory:
        image, place = Path(directory, "image"), Path(directory, "mounted")
        with image.open("wb") as file:
            file.truncate(gibibytes * _GIBIBYTE)
        lazily = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", lazily, str(image))
        place.mkdir()
        _run("mount", "-o", "loop,noatime,noinit_itable", str(image), str(place))
        try:
            (place / "lost+found").rmdir()
            yield place
        finally:
            _run("umount", str(place))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
