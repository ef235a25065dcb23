"""Metrics: what this process counts and measures, under the names that Prometheus scrapes.

    _paths = meters.counter("cri_proxy_fetched_paths_total", "Store paths fetched from caches.")
    _paths.add(3)

    any module ── add ──> Counter, Histogram ──┐
    a worker's ── drain ──> frame ── add ──>   ├── Exposition ──> /metrics     in the daemon
    the daemon's objects ── gauge ── Registry ─┘

Counters and histograms belong to the process and are declared where they are counted; declaring one
twice returns the same object. Gauges are functions that are read at a scrape; they belong to the
`Registry` that the daemon builds and hands to whatever has something to show.

A worker process is not scraped. What it counts travels to the daemon with its frames (`drain`), and
is added there (`add`), so a module need not know which process it runs in. Nothing here imports
prometheus_client, which takes 60 ms: `telemetry.exposition` does, in the daemon alone.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300),
)
"""Upper bounds of the buckets of every histogram, in seconds."""

Labels: TypeAlias = tuple[str, ...]
Reading: TypeAlias = "float | Mapping[str, float]"


@dataclass(frozen=True, slots=True)
class Increment:
    """The growth of one counter, with all that is needed to declare it in another process."""

    name: str
    about: str
    label_names: Labels
    labels: Labels
    amount: float


@dataclass(slots=True)
class Counter:
    """A number that only grows, for each combination of label values."""

    name: str
    about: str
    label_names: Labels
    _values: dict[Labels, float] = field(default_factory=dict)

    def add(self, amount: float = 1, *labels: str) -> None:
        """Add `amount` to the number with these label values."""
        with _lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def values(self) -> dict[Labels, float]:
        """Return the numbers by label values; a counter without labels starts at 0."""
        with _lock:
            return self._values.copy() if self.label_names else {(): 0, **self._values}

    def drain(self) -> dict[Labels, float]:
        """Return the numbers and begin again at zero."""
        with _lock:
            values, self._values = self._values, {}
        return values


@dataclass(slots=True)
class Histogram:
    """Durations in seconds, for each combination of label values."""

    name: str
    about: str
    label_names: Labels
    _values: dict[Labels, tuple[list[int], float]] = field(default_factory=dict)

    def record(self, seconds: float, *labels: str) -> None:
        """Count one duration."""
        with _lock:
            counts, total = self._values.get(labels) or ([0] * (len(BOUNDS) + 1), 0.0)
            counts[bisect_left(BOUNDS, seconds)] += 1  # a bucket includes its upper bound
            self._values[labels] = (counts, total + seconds)

    def values(self) -> dict[Labels, tuple[list[int], float]]:
        """Return by label values how many durations are in each bucket, and the sum of all.

        The last bucket has those above every bound.
        """
        with _lock:
            return {
                labels: (list(counts), total) for labels, (counts, total) in self._values.items()
            }


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is read when it is scraped; with `label`, one for each of its values."""

    name: str
    about: str
    read: Callable[[], Reading]
    label: str


class Registry:
    """The gauges of one daemon."""

    def __init__(self) -> None:
        self.gauges: Final[dict[str, Gauge]] = {}

    def gauge(self, name: str, about: str, read: Callable[[], Reading], *, label: str = "") -> None:
        """Add a gauge whose `read` is called at every scrape, in a thread of its own.

        With a `label` it returns a number for each value of that. An OSError means that there is
        none for now. Raises ValueError for a name that is taken.
        """
        if name in self.gauges:
            raise ValueError(f"there are two gauges called {name}")
        self.gauges[name] = Gauge(name, about, read, label)


_lock: Final = threading.Lock()
COUNTERS: Final[dict[str, Counter]] = {}
HISTOGRAMS: Final[dict[str, Histogram]] = {}


def counter(name: str, about: str, *label_names: str) -> Counter:
    """Return the counter of a name, which ends in `_total`."""
    return COUNTERS.setdefault(name, Counter(name, about, label_names))


def histogram(name: str, about: str, *label_names: str) -> Histogram:
    """Return the histogram of a name, which ends in `_seconds`."""
    return HISTOGRAMS.setdefault(name, Histogram(name, about, label_names))


def drain() -> tuple[Increment, ...]:
    """Return what the counters have grown by since the last call, for `add` in another process."""
    return tuple(
        Increment(each.name, each.about, each.label_names, labels, amount)
        for each in tuple(COUNTERS.values())
        for labels, amount in each.drain().items()
        if amount
    )


def add(increments: Iterable[Increment]) -> None:
    """Add what was counted in another process; its counters may be unknown in this one."""
    for each in increments:
        counter(each.name, each.about, *each.label_names).add(each.amount, *each.labels)
