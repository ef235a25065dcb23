"""I/O priority of a thread, by ioprio_set(2), which Python does not wrap.

Disk schedulers without priorities ignore it. The niceness of a process is set when it starts, by
`child` and by the worker pool.
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
    """Give the calling thread the disk only while no other thread uses it, where supported."""
    number = _NUMBER.get(platform.machine())
    if number is not None:
        _libc.syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
