"""The exposition: the metrics of this process as the text that Prometheus scrapes.

Counters and histograms are those of `meters`, gauges those of a `Registry`; prometheus_client adds
what it knows of the process (`process_*`, `python_gc_*`) and writes the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cri_proxy.lib import meters
from cri_proxy.telemetry import logs

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS: Final = (*map(str, meters.BOUNDS), "+Inf")
_log = logs.of(__name__)


class Exposition(Collector):
    """The text for Prometheus, made anew for each scrape."""

    def __init__(self, registry: meters.Registry) -> None:
        self._gauges = registry.gauges
        self._collectors = CollectorRegistry()
        ProcessCollector(registry=self._collectors)
        GCCollector(registry=self._collectors)
        self._collectors.register(self)

    def text(self) -> bytes:
        """Return the text; reads gauges, so that it may wait for a disk."""
        return generate_latest(self._collectors)

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: gauges are added after this is registered."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples, as prometheus_client asks for them."""
        for counter in tuple(meters.COUNTERS.values()):
            counted = CounterMetricFamily(counter.name, counter.about, labels=counter.label_names)
            for labels, amount in counter.values().items():
                counted.add_metric(labels, amount)
            yield counted
        for histogram in tuple(meters.HISTOGRAMS.values()):
            timed = HistogramMetricFamily(
                histogram.name, histogram.about, labels=histogram.label_names
            )
            for labels, (counts, total) in histogram.values().items():
                timed.add_metric(labels, list(zip(_BOUNDS, accumulate(counts))), total)
            yield timed
        for gauge in tuple(self._gauges.values()):
            if (read := _read(gauge)) is not None:
                yield read


def _read(gauge: meters.Gauge) -> Metric | None:
    """Return a gauge with what it reads now; None when it cannot be read."""
    try:
        found = gauge.read()
    except OSError as error:
        _log.debug("metric cannot be read", metric=gauge.name, why=error)
        return None
    if isinstance(found, (int, float)):
        return GaugeMetricFamily(gauge.name, gauge.about, value=found)
    family = GaugeMetricFamily(gauge.name, gauge.about, labels=(gauge.label,))
    for value, number in found.items():
        family.add_metric((value,), number)
    return family
