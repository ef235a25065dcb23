"""Atomic exchange of two paths (renameat2(2), RENAME_EXCHANGE).

`os.rename` replaces a file, but not a directory with entries. On a file system that does not
support the exchange (some network file systems) three renames take its place, and for a moment
nothing is at the first path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path
from typing import Final

# <linux/fs.h>, <fcntl.h>
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS)
_libc: Final = ctypes.CDLL(None, use_errno=True)


def swap(one: Path, other: Path) -> None:
    """Exchange two files or directories of one file system; both must exist."""
    status = _libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if status == 0:
        return
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(one))
    aside = one.with_name(f".swap-{secrets.token_hex(8)}")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
