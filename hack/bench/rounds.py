"""Rounds: sides that take turns, A B A B, so that other load on the machine affects all alike.

A side is a function that prepares, does the work and returns the seconds (or another measure) of
the work alone. The median of its runs counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hack.bench.figures import Options

Side = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Results:
    """The measured values of each side, in the order of its runs."""

    samples: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        """Return the median of a side's samples."""
        return statistics.median(self.samples[side])

    def worst(self, side: str) -> float:
        """Return the largest of a side's samples."""
        return max(self.samples[side])


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def run(options: Options, sides: Mapping[str, Side], *, times: int) -> Results:
    """Run all sides `times` times, taking turns."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(times):
        for name, side in sides.items():
            samples[name].append(side())
            options.log(f"round {turn + 1}: {name} {samples[name][-1]:.3f}")
    return Results({name: tuple(values) for name, values in samples.items()})
