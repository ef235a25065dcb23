"""Overlay mounts: mount(2) and umount2(2), called through the C library.

An overlay shows a lower directory with the changes of an upper one on top. Writes go to the upper
directory, whatever the files below are linked to. See the kernel's overlayfs documentation for its
rules. Mounting requires CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

# <sys/mount.h>
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_libc: Final = ctypes.CDLL(None, use_errno=True)


def overlay(lower: Path, upper: Path, work: Path, place: Path) -> None:
    """Mount `lower` at `place`, with the changes in `upper` on top.

    `upper` and the empty directory `work` must be on one file system. Raises the kernel's OSError:
    EINVAL if that file system cannot be an upper layer, EPERM without the right to mount.
    """
    lowest = _escaped(lower).replace(":", "\\:")  # colons separate lower layers
    options = f"lowerdir={lowest},upperdir={_escaped(upper)},workdir={_escaped(work)}"
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    kind = b"overlay"
    if _libc.mount(kind, os.fsencode(place), kind, flags, os.fsencode(options)) != 0:
        raise _error_at(place)


def detach(place: Path) -> None:
    """Unmount everything mounted at `place`, lazily (MNT_DETACH): open files stay usable."""
    while _libc.umount2(os.fsencode(place), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        pass
    error = _error_at(place)
    if error.errno not in {errno.EINVAL, errno.ENOENT}:  # no mount point (any more), or no path
        raise error


def _error_at(place: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(place))


def _escaped(path: Path) -> str:
    """Return a path escaped for a mount option, where commas separate options."""
    return str(path).replace("\\", "\\\\").replace(",", "\\,")
