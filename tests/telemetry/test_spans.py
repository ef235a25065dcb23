"""Spans by themselves: what names them, what is above them, and what costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cri_proxy.telemetry import spans
from cri_proxy.telemetry.spans import Context, Span

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = Context(int(TRACE, 16), int(PARENT, 16), is_sampled=True)


@pytest.fixture
def taken() -> Iterator[list[Span]]:
    """What was ended while the test ran."""
    found: list[Span] = []
    spans.install(found.append)
    yield found
    spans.install(None)


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"01-{TRACE}-{PARENT}-01-what-comes-later", True),
    ],
)
def test_a_callers_context_is_read(header: str, is_sampled: bool) -> None:
    found = spans.context_of([("x", "y"), ("traceparent", header), ("tracestate", "a=1")])

    assert found == Context(CONTEXT.trace_id, CONTEXT.span_id, is_sampled, "a=1")


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_what_is_no_context_is_none(header: str) -> None:
    assert spans.context_of([("traceparent", header)]) is None


def test_a_context_is_written_as_it_is_read() -> None:
    header = spans.traceparent_of(CONTEXT)

    assert header == f"00-{TRACE}-{PARENT}-01"
    assert spans.context_of([("traceparent", header)]) == CONTEXT


def test_work_that_no_traced_call_has_asked_for_has_no_span(taken: list[Span]) -> None:
    with spans.span("store.fetch") as span:
        span.set_attribute("cri_proxy.paths", 1)
        span.add_link(CONTEXT)
        spans.record(("store.unpack", 1, 2))
        spans.annotate(more=1)

    assert taken == []
    assert span.attributes == {}
    assert span.links == []


async def test_a_task_that_a_call_begins_is_below_it(taken: list[Span]) -> None:
    async def work() -> None:
        with spans.span("inner"):
            await asyncio.sleep(0)

    call = spans.below(CONTEXT, "call", kind="server", attributes={})
    with spans.Entered(call):
        task = asyncio.create_task(work())
    await task

    assert [(each.name, each.parent_id) for each in taken] == [
        ("call", CONTEXT.span_id),
        ("inner", call.context.span_id),
    ]
    assert spans.current() is None


def test_an_error_that_leaves_is_recorded_and_a_cancellation_is_none(taken: list[Span]) -> None:
    call = spans.below(CONTEXT, "call", kind="server", attributes={})
    with pytest.raises(ExceptionGroup), spans.Entered(call), spans.span("failed"):
        raise ExceptionGroup("several", [ValueError("broke off")])
    with pytest.raises(asyncio.CancelledError), spans.Entered(call), spans.span("left"):
        raise asyncio.CancelledError

    failed, _, left, _ = taken
    assert (failed.is_error, failed.message) == (True, "broke off")
    assert failed.attributes == {"error.type": "ValueError"}
    assert not left.is_error
