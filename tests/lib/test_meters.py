"""Counters, histograms and gauges: what they hold, and how a worker's counts reach the daemon."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from cri_proxy.lib import meters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def name() -> str:
    """A name that no other test has: metrics belong to the process."""
    return f"test_{uuid.uuid4().hex}_total"


def test_a_counter_without_labels_is_zero_from_the_start_and_adds_up(name: str) -> None:
    counter = meters.counter(name, "Things.")
    before = counter.values()
    counter.add()
    counter.add(41)

    assert before == {(): 0}
    assert counter.values() == {(): 42}


def test_a_counter_with_labels_counts_each_combination(name: str) -> None:
    counter = meters.counter(name, "Things.", "kind", "outcome")
    before = counter.values()
    counter.add(1, "a", "good")
    counter.add(2, "a", "bad")
    counter.add(3, "a", "bad")

    assert before == {}
    assert counter.values() == {("a", "good"): 1, ("a", "bad"): 5}


def test_a_name_that_is_declared_twice_is_one_metric(name: str) -> None:
    meters.counter(name, "Things.").add(2)
    meters.counter(name, "Things.").add(3)

    assert meters.counter(name, "Things.").values() == {(): 5}
    assert meters.counter(name, "Things.") is meters.COUNTERS[name]


def test_no_count_of_several_threads_is_lost(name: str) -> None:
    counter = meters.counter(name, "Things.")
    threads = [
        threading.Thread(target=lambda: [counter.add() for _ in range(2000)]) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert counter.values() == {(): 16000}


def test_a_duration_is_in_the_first_bucket_that_includes_it(name: str) -> None:
    histogram = meters.histogram(name, "Time.", "outcome")
    for seconds in (0.0, meters.BOUNDS[0], 0.002, meters.BOUNDS[-1] + 1):
        histogram.record(seconds, "good")

    ((labels, (counts, total)),) = histogram.values().items()
    assert labels == ("good",)
    assert counts[:3] == [2, 1, 0]
    assert (counts[-1], sum(counts)) == (1, 4)
    assert total == pytest.approx(0.001 + 0.002 + 301)


def test_what_one_process_has_drained_another_adds(name: str) -> None:
    """It need not know the counters: what a worker counts is declared in the worker's modules."""
    program = (
        "import dataclasses, json\n"
        "from cri_proxy.lib import meters\n"
        f"counter = meters.counter({name!r}, 'Things.', 'outcome')\n"
        "counter.add(2, 'good'); counter.add(1, 'bad')\n"
        "meters.counter('untouched_total', 'Nothing.')\n"
        "first = meters.drain()\n"
        "counter.add(5, 'good')\n"
        "second = meters.drain()\n"
        "print(json.dumps([list(map(dataclasses.astuple, each)) for each in (first, second)]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60
    ).stdout
    for drained in json.loads(printed):
        meters.add(
            meters.Increment(found, about, tuple(label_names), tuple(labels), amount)
            for found, about, label_names, labels, amount in drained
        )

    counter = meters.COUNTERS[name]
    assert (counter.about, counter.label_names) == ("Things.", ("outcome",))
    assert counter.values() == {("good",): 7, ("bad",): 1}
    assert "untouched_total" not in meters.COUNTERS


def test_nothing_is_drained_twice(name: str) -> None:
    counter = meters.counter(name, "Things.")
    counter.add(3)
    first = [each for each in meters.drain() if each.name == name]
    second = [each for each in meters.drain() if each.name == name]

    assert first == [meters.Increment(name, "Things.", (), (), 3)]
    assert second == []


def test_two_registries_of_a_process_may_have_the_same_gauges() -> None:
    one, two = meters.Registry(), meters.Registry()
    for registry in (one, two):
        registry.gauge("test_up", "Whether it is up.", lambda: 1)

    with pytest.raises(ValueError, match="test_up"):
        one.gauge("test_up", "Another.", lambda: 0)


def test_a_worker_imports_nothing_of_prometheus() -> None:
    program = "import sys, cri_proxy.daemon.worker; assert 'prometheus_client' not in sys.modules"

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
