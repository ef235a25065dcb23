"""Fresh file systems to measure on.

After many files were deleted from an ext4 file system, creating files on it is up to twenty times
slower for a minute, and a shared disk is slow at unpredictable times. So every run gets its own
ext4 file system with its blocks in memory, which is discarded as a whole.
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
    """Mount a new ext4 file system in memory, and yield its directory.

    Only written blocks take memory. Needs root and a loop device.
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
