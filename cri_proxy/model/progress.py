"""The progress of a realization, in numbers that a person can follow.

The realizer counts, everyone else reads: the CLI draws bars from it, an error for a passed deadline
quotes it (`str`), spans record it at the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_RATE_SECONDS: Final = 1.0
"""A rate is shown after so long: before, it would be chance."""


class Phase(StrEnum):
    """The step that a realization is at."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    RENDERING = "rendering"
    READY = "ready"


@dataclass(slots=True)
class Progress:
    """Counters of one realization; totals grow while the closure is being discovered.

    Bytes are NAR bytes (unpacked sizes); `paths_present` of `paths_done` were on the node before,
    as were `bytes_present`. `fetching_since` is by the monotonic clock, 0 before.
    """

    phase: Phase = Phase.RESOLVING
    paths_done: int = 0
    paths_total: int = 0
    paths_present: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_present: int = 0
    fetching_since: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes that were fetched per second so far; 0 while that is not known."""
        if not self.fetching_since:
            return 0.0
        seconds = time.monotonic() - self.fetching_since
        fetched = self.bytes_done - self.bytes_present
        return fetched / seconds if seconds >= _RATE_SECONDS and fetched > 0 else 0.0

    def __str__(self) -> str:
        if self.phase is not Phase.FETCHING:
            return str(self.phase)
        text = (
            f"fetching {self.paths_done}/{self.paths_total} paths, "
            f"{_gigabytes(self.bytes_done, self.bytes_total)}"
        )
        if rate := self.rate:
            left = max(0, self.bytes_total - self.bytes_done)
            text += f", {rate / 1_000_000:.1f} MB/s, {left / rate:.0f} s left"
        return text


def _gigabytes(done: int, total: int) -> str:
    """Return `0.4/1.1 GB`, or megabytes for totals below one gigabyte."""
    unit, name = (1_000_000_000, "GB") if total >= 1_000_000_000 else (1_000_000, "MB")
    return f"{done / unit:.1f}/{total / unit:.1f} {name}"
