"""Waiting for conditions outside this process, with a deadline.

What cannot be awaited as an event (a container's exit, a socket that another program will bind) is
polled. Every wait has a deadline, and its error has the awaited condition and the last state, so
that a hanging test explains itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

DEADLINE_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1

T = TypeVar("T")


class DeadlineExceeded(AssertionError):
    """The deadline passed; the message has the awaited condition and the last state."""


def until(
    probe: Callable[[], T | None],
    *,
    what: str,
    seconds: float = DEADLINE_SECONDS,
    explain: Callable[[], str] = lambda: "",
) -> T:
    """Return the first value of `probe()` that is neither None nor False.

    Exceptions of `probe` are passed on. `explain` adds the last state, for example the tail of a
    log, to the error.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        value = probe()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(f"waited {seconds:g} s for {what}; {explain()}".rstrip("; "))
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
