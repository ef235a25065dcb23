"""Meters: what the program counts and measures, by OpenTelemetry, for whoever scrapes it.

    _seconds = meters.histogram("cri_proxy.realization.duration", "s", "…")
    _seconds.record(2.1, {"cri_proxy.outcome": "fetched"})

Instruments are made at import and do nothing until `install`, which the daemon calls when the
settings name an address. Then Prometheus may read them: `exposition` is its text. What happens at
every relayed call is not recorded here but counted in a `Tally`, whose sums are read at a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.util.types import AttributeValue

import cri_proxy

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)

Attributes: TypeAlias = Mapping[str, AttributeValue]
Measured: TypeAlias = "Iterable[tuple[float, Attributes]]"


class Tally:
    """Counts of calls by method and status; counting costs next to nothing."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def count(self, method: str, code: str) -> None:
        """Count one call."""
        key = (method, code)
        self.counts[key] = self.counts.get(key, 0) + 1

    def measured(self) -> Measured:
        """Return the counts as an observed counter wants them."""
        return [
            (count, {"rpc.method": method, "rpc.status_code": code})
            for (method, code), count in self.counts.copy().items()
        ]


def meter() -> metrics.Meter:
    """Return the meter of all our instruments."""
    return metrics.get_meter("cri_proxy", cri_proxy.__version__)


def counter(name: str, unit: str, about: str) -> metrics.Counter:
    """Return an instrument for what only grows."""
    return meter().create_counter(name, unit, about)


def histogram(name: str, unit: str, about: str) -> metrics.Histogram:
    """Return an instrument for durations in seconds."""
    return meter().create_histogram(
        name, unit, about, explicit_bucket_boundaries_advisory=list(SECONDS)
    )


def observed_counter(name: str, unit: str, about: str, read: Callable[[], Measured]) -> None:
    """Have `read` asked at every scrape for what only grows."""
    meter().create_observable_counter(name, [_callback(read)], unit, about)


def gauge(name: str, unit: str, about: str, read: Callable[[], Measured]) -> None:
    """Have `read` asked at every scrape for what goes up and down."""
    meter().create_observable_gauge(name, [_callback(read)], unit, about)


def install() -> Callable[[], bytes]:
    """Have everything measured from now on; return what makes Prometheus's text of it.

    Can be done once in a process.
    """
    import prometheus_client
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider

    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    reader = PrometheusMetricReader(
        disable_target_info=True, scope_info_enabled=False, registry=registry
    )
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))

    def exposition() -> bytes:
        return prometheus_client.generate_latest(registry)

    return exposition


def _callback(read: Callable[[], Measured]) -> Callable[[CallbackOptions], list[Observation]]:
    def callback(_: CallbackOptions) -> list[Observation]:
        return [Observation(value, attributes) for value, attributes in read()]

    return callback
