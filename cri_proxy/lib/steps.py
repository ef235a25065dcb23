"""Steps: what a job took its time for, told with its result.

    steps = Steps()
    with steps("store.commit"):
        stage.commit(record)
    return {..., "steps": steps.taken}

A job runs in another process than the trace that it is part of. The clocks are one, so it says
when each step began and ended (nanoseconds since 1970), and the daemon makes spans of that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TypeAlias

Step: TypeAlias = tuple[str, int, int]
"""Its name, beginning and end; a list of the three after a journey as JSON."""


class Steps:
    """The steps of one run of a job; `taken` has those that are over, by their ends."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken: list[Step] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body, however it ends."""
        start = time.time_ns()
        try:
            yield
        finally:
            self.taken.append((name, start, time.time_ns()))
