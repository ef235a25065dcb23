"""A disk whose power can be cut: an ext4 in a file, mounted, that forgets what was never synced.

    with Disk(tmp_path) as disk:
        (disk.place / "file").write_text("x")
        disk.cut()
        assert not (disk.place / "file").exists()

`cut` uses ext4's own shutdown (EXT4_IOC_SHUTDOWN of the kernel's fs/ext4/ioctl.c): from one moment
to the next nothing is written any more, not even the journal, and what is in memory is lost with
the mount. What is on the disk at that moment goes on as another disk in the same place: somebody
else's mount namespace may have a copy of the first mount, and with it the dead file system.

An `untidy` one writes its journal first and contents never before it, as a careless
disk or mount option has it: names are there, and the bytes behind them may not be.
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
    """Return what this machine lacks for such a disk; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    if not Path("/dev/loop-control").exists():
        return "loop devices"
    return ""


class Disk:
    """One disk, from `with` to its end; `place` is where it is mounted."""

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
        """Write nothing any more; whoever still works on it gets errors."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            how = _WITH_JOURNAL if self._is_untidy else _WITHOUT_JOURNAL
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Have what is on the disk back, once nobody works on it any more."""
        _run("umount", "--lazy", str(self.place))
        copy = self._image.with_suffix(".copy")
        _run("cp", "--sparse=always", str(self._image), str(copy))
        copy.rename(self._image)
        self._mount()

    def cut(self) -> None:
        """Fail, and have what is on the disk back."""
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
