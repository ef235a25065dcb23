"""Priority: a thread that lets everybody else's reads and writes of the disk go first.

Niceness is a process's and set by the worker pool. How the disk is shared is the kernel's I/O
priority, ioprio_set(2), which Python does not wrap; schedulers that know of none ignore it.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

# <linux/ioprio.h> and the kernel's system call tables
_NUMBER: Final = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS: Final = 1
_CLASS_IDLE: Final = 3 << 13
_libc: Final = ctypes.CDLL(None, use_errno=True)


def make_idle() -> None:
    """Give the calling thread the disk only while nobody else wants it; no harm where unknown."""
    number = _NUMBER.get(platform.machine())
    if number is not None:
        _libc.syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
