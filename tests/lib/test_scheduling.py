"""Scheduling: what is asked of this machine's kernel, in a thread of its own."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading

import pytest

from cri_proxy.lib import scheduling

_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}


def asked_in_a_thread() -> tuple[bool, int, int]:
    """Return whether it was taken, what the kernel reports of it, and the niceness after it."""
    found: list[tuple[bool, int, int]] = []

    def ask() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        taken = scheduling.ask_for_slices(200)
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        found.append((taken, scheduling.slice_microseconds(), niceness))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def knows_slices() -> bool:
    """Whether this machine's kernel has slices of a thread's own."""
    release = tuple(int(each) for each in platform.release().split(".")[:2])
    return release >= (6, 12) and platform.machine() in ("x86_64", "aarch64")


def test_slice_is_shortened_where_the_kernel_knows_that_and_nothing_else_changes() -> None:
    taken, microseconds, niceness = asked_in_a_thread()

    assert niceness == 5
    if knows_slices():
        assert taken
        assert microseconds == 200


def test_a_process_that_computes_has_the_longest_slices_in_all_its_threads() -> None:
    program = (
        "import os, threading; from cri_proxy.lib import scheduling;"
        "scheduling.compute(3);"
        "show = lambda: print(os.nice(0), scheduling.slice_microseconds());"
        "thread = threading.Thread(target=show); thread.start(); thread.join()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    niceness, microseconds = map(int, done.stdout.split())
    assert niceness == min(os.nice(0) + 3, 19)
    if knows_slices():
        assert microseconds == scheduling.LONG_MICROSECONDS


def ways_given(steps: int, *, seconds: float, computes: bool) -> int:
    """Return how often a process gives way that takes so many steps of so many seconds."""
    program = f"""
import os, time
from cri_proxy.lib import scheduling
now, given = 1000.0, 0

def sched_yield():
    global given
    given += 1

os.sched_yield, time.monotonic = sched_yield, lambda: now
if {computes}:
    scheduling.compute(0)
for _ in range({steps}):
    scheduling.give_way()
    now += {seconds}
print(given)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_what_computes_gives_way_after_every_long_step_and_now_and_then_between_short_ones() -> (
    None
):
    assert ways_given(10, seconds=scheduling.WAY_SECONDS * 2, computes=True) == 10
    assert ways_given(1000, seconds=scheduling.WAY_SECONDS / 10.5, computes=True) in (90, 91)


def test_who_does_not_compute_behind_others_gives_no_way() -> None:
    assert ways_given(10, seconds=1.0, computes=False) == 0


def test_only_the_thread_that_asks_is_put_last() -> None:
    number = _IOPRIO_GET.get(platform.machine())
    if number is None:
        pytest.skip("this machine's number of ioprio_get(2) is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.syscall(number, 1, 0)
    found: list[int] = []

    def ask() -> None:
        scheduling.make_idle()
        found.append(libc.syscall(number, 1, 0) >> 13)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()

    assert found == [3]
    assert libc.syscall(number, 1, 0) == before
