"""Exchange: two things of one file system change places at once, and nobody sees neither.

`os.rename` replaces a file, but no directory that has something in it. For that the kernel has
renameat2(2) with RENAME_EXCHANGE; a file system without it (some network ones) gets two renames,
between which there is a moment with nothing in place.
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
    """Exchange what is at two places; both must be there."""
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
