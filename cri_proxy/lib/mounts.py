"""Mounts: the kernel's mount(2) and umount2(2), for the one kind of mount that we make.

An overlay shows one directory with the changes of another on top; who writes to it writes to that
other one, whatever the files below are linked to. See the kernel's overlayfs documentation for its
rules. Making one needs the rights of an administrator of the machine (CAP_SYS_ADMIN).
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
    """Mount at `place` what `lower` has, with the changes in `upper` on top.

    `upper` and the empty directory `work` must be on one file system. Raises OSError as the kernel
    does: EINVAL when that file system cannot carry the changes, EPERM without the right to mount.
    """
    options = f"lowerdir={_layer(lower)},upperdir={_escaped(upper)},workdir={_escaped(work)}"
    _check(
        _libc.mount(
            b"overlay",
            os.fsencode(place),
            b"overlay",
            ctypes.c_ulong(_MS_NOSUID | _MS_NODEV),
            os.fsencode(options),
        ),
        place,
    )


def detach(place: Path) -> None:
    """Unmount everything that is mounted at `place` itself; who uses it now may go on.

    Afterwards nothing is mounted there, or an OSError has been raised.
    """
    while True:
        try:
            _check(
                _libc.umount2(os.fsencode(place), _MNT_DETACH | _UMOUNT_NOFOLLOW),
                place,
            )
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:
                return  # nothing is mounted there, or nothing is there
            raise


def _check(status: int, place: Path) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def _layer(path: Path) -> str:
    """Return a lower directory's path as its option has it, where colons divide layers."""
    return _escaped(path).replace(":", "\\:")


def _escaped(path: Path) -> str:
    """Return a path as a mount option has it, where commas divide options."""
    return str(path).replace("\\", "\\\\").replace(",", "\\,")
