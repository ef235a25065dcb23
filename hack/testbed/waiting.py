"""The one way to wait for something outside this process.

What cannot be awaited as an event (a container's exit, a socket that another program will bind) is
probed again and again until it is there. Every wait has a deadline and says at its end what it
was waiting for and what it saw last, so that a test that hangs explains itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

DEADLINE_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1

T = TypeVar("T")


class NeverHappened(AssertionError):
    """The deadline passed; the message says what was awaited and what there was instead."""


def until(
    probe: Callable[[], T | None],
    *,
    what: str,
    seconds: float = DEADLINE_SECONDS,
    explain: Callable[[], str] = lambda: "",
) -> T:
    """Return the first value of `probe()` that is neither None nor False.

    Exceptions of `probe` pass through: it catches what it expects. `explain` adds the state of
    the awaited thing, a log's tail for example, to the error.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        value = probe()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= deadline:
            raise NeverHappened(f"waited {seconds:g} s for {what}; {explain()}".rstrip("; "))
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
