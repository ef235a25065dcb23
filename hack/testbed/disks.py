"""A disk whose power can be cut: a mounted ext4 image that loses data that was not synced.

    with Disk(tmp_path) as disk:
        (disk.place / "file").write_text("x")
        disk.cut()
        assert not (disk.place / "file").exists()

`cut` uses ext4's own shutdown (EXT4_IOC_SHUTDOWN in the kernel's fs/ext4/ioctl.c): nothing is
written any more, not even the journal, and data in memory is lost with the mount. The content of
the disk at that moment is copied to a new disk at the same place, because another mount namespace
may have a copy of the first mount, which keeps the dead file system in use.

An `untidy` disk writes its journal before the data, as with a careless disk or mount option: after
a power failure, files exist whose data is missing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Final, Self

_SHUTDOWN: Final = 0x8004587D
_WITH_JOURNAL, _WITHOUT_JOURNAL = 1, 2


def lacks() -> str:
    """Return what this machine lacks for such a disk; empty if it lacks nothing."""
    if os.geteuid() != 0:
        return "root"
    if not Path("/dev/loop-control").exists():
        return "loop devices"
    return ""


class Disk:
    """A disk that is mounted at `place` while the context lasts."""

    def __init__(self, directory: Path, *, megabytes: int = 256, is_untidy: bool = False) -> None:
        self.place: Final = directory / "disk"
        self._image: Final = directory / "disk.image"
        self._megabytes: Final = megabytes
        self._is_untidy: Final = is_untidy

    def __enter__(self) -> Self:
        with self._image.open("wb") as image:
            image.truncate(self._megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self.place.mkdir()
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "--lazy", str(self.place))
        self._image.unlink()

    def fail(self) -> None:
        """Stop all writes; processes that still use the disk get errors."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            how = _WITH_JOURNAL if self._is_untidy else _WITHOUT_JOURNAL
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Mount the content of the disk again, once no process uses it any more."""
        _run("umount", "--lazy", str(self.place))
        copy = self._image.with_suffix(".copy")
        _run("cp", "--sparse=always", str(self._image), str(copy))
        copy.rename(self._image)
        self._mount()

    def cut(self) -> None:
        """Cut the power, and mount the content of the disk again."""
        self.fail()
        self.restart()

    def _mount(self) -> None:
        how = "loop,data=writeback,noauto_da_alloc,commit=300" if self._is_untidy else "loop"
        _run("mount", "-t", "ext4", "-o", how, str(self._image), str(self.place))


def _run(*argv: str) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.decode(errors="replace"))
        raise
