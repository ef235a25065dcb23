"""The text that Prometheus scrapes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from cri_proxy.lib import meters
from cri_proxy.lib.meters import Registry
from cri_proxy.telemetry.exposition import Exposition


def scraped(registry: Registry, name: str) -> dict[str, float]:
    """Return the samples whose names begin with `name`, by name and labels."""
    text = Exposition(registry).text().decode()
    samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith(name))
    return {sample: float(value) for sample, _, value in samples}


def unused() -> str:
    return f"test_{uuid.uuid4().hex}"


def test_a_counter_is_shown_under_the_name_that_it_was_given() -> None:
    name = f"{unused()}_total"
    meters.counter(name, "Things.", "outcome").add(3, "good")

    assert scraped(Registry(), name) == {f'{name}{{outcome="good"}}': 3}


def test_a_counter_that_has_counted_nothing_is_shown_as_zero() -> None:
    name = f"{unused()}_total"
    meters.counter(name, "Things.")

    assert scraped(Registry(), name) == {name: 0}


def test_buckets_are_cumulative_and_named_by_their_upper_bounds() -> None:
    name = f"{unused()}_seconds"
    histogram = meters.histogram(name, "Time.", "outcome")
    histogram.record(0.3, "good")
    histogram.record(2, "good")

    found = scraped(Registry(), name)

    assert found[f'{name}_bucket{{le="0.25",outcome="good"}}'] == 0
    assert found[f'{name}_bucket{{le="0.5",outcome="good"}}'] == 1
    assert found[f'{name}_bucket{{le="1",outcome="good"}}'] == 1
    assert found[f'{name}_bucket{{le="2.5",outcome="good"}}'] == 2
    assert found[f'{name}_bucket{{le="+Inf",outcome="good"}}'] == 2
    assert found[f'{name}_count{{outcome="good"}}'] == 2
    assert found[f'{name}_sum{{outcome="good"}}'] == 2.3


def test_gauges_are_read_at_every_scrape() -> None:
    name, registry = unused(), Registry()
    exposition = Exposition(registry)
    level = 1.0
    registry.gauge(name, "A level.", lambda: level)  # added after the exposition was made
    first = f"{name} 1.0" in exposition.text().decode()
    level = 2.0

    assert first
    assert f"{name} 2.0" in exposition.text().decode()


def test_a_gauge_with_a_label_has_a_sample_for_each_of_its_values() -> None:
    name, registry = unused(), Registry()
    states: Mapping[str, float] = {"ready": 3, "failing": 0}
    registry.gauge(name, "Pins.", lambda: states, label="state")

    assert scraped(registry, name) == {
        f'{name}{{state="ready"}}': 3,
        f'{name}{{state="failing"}}': 0,
    }


def test_a_gauge_that_cannot_be_read_costs_only_itself() -> None:
    name, registry = unused(), Registry()

    def fail() -> float:
        raise FileNotFoundError(2, "the disk is gone")

    registry.gauge(f"{name}_lost", "Lost.", fail)
    registry.gauge(f"{name}_there", "There.", lambda: 1)

    assert scraped(registry, name) == {f"{name}_there": 1}


def test_the_text_is_what_prometheus_parses_with_the_process_among_it() -> None:
    text = Exposition(Registry()).text().decode()

    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"process_resident_memory_bytes", "python_gc_collections"} <= families


def test_two_expositions_of_a_process_show_the_same_counters() -> None:
    name = f"{unused()}_total"
    meters.counter(name, "Things.").add(2)

    assert scraped(Registry(), name) == scraped(Registry(), name) == {name: 2}
