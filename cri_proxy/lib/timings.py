"""Timings: when the parts of a job began and ended, sent with its result.

    timings = Timings()
    with timings("store.commit"):
        stage.commit(record)
    return Fetched(fact, timings.taken)

A job runs in another process than the trace that it is part of. Both read the same clock, so the
job reports when each part began and ended (nanoseconds since 1970), and the daemon makes spans of
that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Timing: TypeAlias = tuple[str, int, int]
"""The name of a part, its beginning and its end."""


@dataclass(frozen=True, slots=True)
class Timings:
    """The timings of one run of a job; `taken` has the parts that have ended, in that order."""

    taken: list[Timing] = field(default_factory=list)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body, even if it raises."""
        start = time.time_ns()
        try:
            yield
        finally:
            self.taken.append((name, start, time.time_ns()))
