"""Scheduling: what is asked of this machine's kernel, in a thread of its own."""

from __future__ import annotations

import os
import platform
import threading

from cri_proxy.lib import scheduling


def asked_in_a_thread() -> tuple[bool, int, int]:
    """Return whether it was taken, what the kernel tells of it, and the niceness after it."""
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


def test_slice_is_shortened_where_the_kernel_knows_that_and_nothing_else_changes() -> None:
    taken, microseconds, niceness = asked_in_a_thread()

    assert niceness == 5
    release = tuple(int(each) for each in platform.release().split(".")[:2])
    if release >= (6, 12) and platform.machine() in ("x86_64", "aarch64"):
        assert taken
        assert microseconds == 200
