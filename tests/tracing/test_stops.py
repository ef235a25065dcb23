"""Pod stops: one trace for the calls that follow each other, linked to the pod's startup."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cri_proxy.telemetry import spans
from cri_proxy.telemetry.spans import Span
from cri_proxy.tracing import stops
from cri_proxy.tracing.startups import Pod, Startup, Startups
from cri_proxy.tracing.stops import StopTraces

POD = Pod("u", 0, "shop", "web", is_annotated=True)


@pytest.fixture
def taken() -> Iterator[list[Span]]:
    """The spans that ended while the test ran."""
    found: list[Span] = []
    spans.install(found.append)
    yield found
    spans.install(None)


@pytest.fixture
async def startup() -> Startup:
    return Startups(queue=None, settle_seconds=3600).begin(POD, None)


async def test_calls_that_follow_each_other_are_one_stop(
    startup: Startup, taken: list[Span]
) -> None:
    open_stops = StopTraces(settle_seconds=3600)
    first = open_stops.enter(startup)
    open_stops.leave(first, None)
    second = open_stops.enter(startup)
    open_stops.leave(second, None)
    open_stops.close()

    assert first is second
    (root,) = taken
    assert root.name == stops.ROOT
    assert root.links == [startup.context]
    assert root.attributes == POD.attributes
    assert root.context.trace_id != startup.context.trace_id
    assert not root.is_error


async def test_a_stop_ends_when_it_has_been_quiet_and_the_next_call_begins_another(
    startup: Startup, taken: list[Span]
) -> None:
    open_stops = StopTraces(settle_seconds=0)
    first = open_stops.enter(startup)
    open_stops.leave(first, None)
    async with asyncio.timeout(60):
        while not taken:
            await asyncio.sleep(0)
    second = open_stops.enter(startup)

    assert taken[0].end == first.ended_at
    assert second is not first
    assert second.context.trace_id != first.context.trace_id
    open_stops.leave(second, None)
    open_stops.close()


async def test_a_stop_does_not_end_during_a_call(startup: Startup, taken: list[Span]) -> None:
    open_stops = StopTraces(settle_seconds=3600)
    stop = open_stops.enter(startup)
    open_stops.enter(startup)
    open_stops.leave(stop, None)

    assert stop.timer is None
    open_stops.leave(stop, None)
    assert stop.timer is not None
    assert taken == []
    open_stops.close()


async def test_the_last_failure_is_the_stops(startup: Startup, taken: list[Span]) -> None:
    open_stops = StopTraces(settle_seconds=3600)
    stop = open_stops.enter(startup)
    open_stops.leave(stop, "the runtime is away")
    open_stops.close()

    assert (taken[0].is_error, taken[0].message) == (True, "the runtime is away")
