"""CPU and disk scheduling: low latency for the daemon beside the programs that work for it.

A relay needs the processor for some microseconds, often, and at once. Since Linux 6.12 a thread can
ask for a slice length: one that wakes up preempts another in the middle of a longer slice, while
the shares of both stay the same. So the daemon asks for short slices, and its child programs, which
would inherit them, for the longest, which any other thread on the node may preempt. Older kernels
ignore the request.

That alone is not enough. A relay that is preempted itself, by a client that wakes on its processor
for five microseconds, has then had more than its share of that moment, and the kernel runs the
computing program until the next tick, up to 4 ms later. So programs that compute ask the kernel to
choose again, four thousand times a second: `give_way`. A thread that reads or deletes many files
leaves the disk to others as well: `make_idle`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from typing import Final

SHORT_MICROSECONDS: Final = 100
"""The shortest that the kernel takes; a relayed call needs less."""
LONG_MICROSECONDS: Final = 100_000
"""The longest that the kernel takes; others have some 3,000."""

WAY_SECONDS: Final = 250e-6
"""Interval of `give_way`. A shorter one would cost a tenth of the speed of unpacking."""

# The kernel's numbers of system calls for which the C library has no functions.
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_SCHED_GETATTR: Final = {"x86_64": 315, "aarch64": 275}
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS: Final = 1
_CLASS_IDLE: Final = 3 << 13
"""These two are of <linux/ioprio.h>."""
_libc: Final = ctypes.CDLL(None)
_ATTRIBUTES: Final = struct.Struct("=LLQlLQQQ")
"""struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime, two more."""


def ask_for_slices(microseconds: int) -> bool:
    """Set the slice length of the calling thread; return whether the kernel accepted it."""
    found = _attributes()
    if found is None:
        return False
    _, policy, flags, nice, priority, _, _, _ = found
    if policy != os.SCHED_OTHER:
        return False
    wanted = (_ATTRIBUTES.size, policy, flags, nice, priority, microseconds * 1000, 0, 0)
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.pack(*wanted), _ATTRIBUTES.size)
    return _call(_SCHED_SETATTR, 0, buffer, 0)


_is_behind = False
_gave_way = 0.0


def compute(niceness: int) -> None:
    """Make this a process that computes in the background; called before it has threads."""
    global _is_behind
    os.nice(niceness)
    ask_for_slices(LONG_MICROSECONDS)
    _is_behind = True


def give_way() -> None:
    """Yield the CPU if this is a background process and 250 us have passed since the last yield.

    Every loop that may compute for a millisecond calls it between two steps; otherwise it costs
    next to nothing.
    """
    global _gave_way
    if _is_behind and time.monotonic() - _gave_way >= WAY_SECONDS:
        os.sched_yield()
        _gave_way = time.monotonic()


def slice_microseconds() -> int:
    """Return the slice length of the calling thread; 0 if the kernel does not report one."""
    found = _attributes()
    return 0 if found is None else found[5] // 1000


def make_idle() -> None:
    """Give the calling thread the disk only while no other thread uses it, where supported.

    Disk schedulers without priorities ignore it.
    """
    _call(_IOPRIO_SET, _WHO_PROCESS, 0, _CLASS_IDLE)


def _attributes() -> tuple[int, ...] | None:
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    answered = _call(_SCHED_GETATTR, 0, buffer, _ATTRIBUTES.size, 0)
    return _ATTRIBUTES.unpack(buffer.raw) if answered else None


def _call(numbers: dict[str, int], *arguments: int | ctypes.Array[ctypes.c_char]) -> bool:
    """Make a system call on this thread; return whether the kernel accepted it."""
    number = numbers.get(platform.machine())
    return number is not None and _libc.syscall(number, *arguments) == 0
