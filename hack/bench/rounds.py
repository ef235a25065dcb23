"""Rounds: sides that run in turns, A B A B, so that what disturbs the machine disturbs them all.

A side is a function that prepares, does the work and returns the seconds (or whatever is compared)
of the work alone. The median of its runs counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hack.bench.figures import Options

Side = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Results:
    """What each side measured, in the order of its runs."""

    samples: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        """Return the middle one of a side's samples."""
        return statistics.median(self.samples[side])

    def worst(self, side: str) -> float:
        """Return the largest of a side's samples."""
        return max(self.samples[side])


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


def run(options: Options, sides: Mapping[str, Side], *, times: int) -> Results:
    """Run all sides `times` times, in turns."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(times):
        for name, side in sides.items():
            samples[name].append(side())
            options.tell(f"round {turn + 1}: {name} {samples[name][-1]:.3f}")
    return Results({name: tuple(values) for name, values in samples.items()})
