"""Traces as they are stored, and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cri_proxy.model import traces
from cri_proxy.model.traces import SpanLink, StoredSpan, StoredStartup, StoredTrace

STARTUP = StoredStartup(
    trace_id="0" * 32,
    span_id="1" * 16,
    parent_id=None,
    started=1_000_000_000,
    uid="u",
    attempt=0,
    namespace="default",
    name="web",
    is_annotated=True,
)


def span_of(span_id: str, end: int, **changes: Any) -> StoredSpan:
    """Return a span that began with the startup."""
    return StoredSpan(
        name="store.fetch",
        span_id=span_id,
        parent_id=None,
        kind="internal",
        start=STARTUP.started,
        end=end,
        **changes,
    )


def through_json(record: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(record))
    return read


def test_startup_and_span_are_read_as_they_were_written() -> None:
    span = span_of("2" * 16, 2, attributes={"a": 1}, links=(SpanLink(trace_id="3", span_id="4"),))

    assert traces.startup_of(through_json(traces.record_of(STARTUP))) == STARTUP
    assert traces.span_of(through_json(traces.record_of(span))) == span


@pytest.mark.parametrize("record", [{}, {"name": "x"}, {"links": 7}, {"links": ["x"]}])
def test_what_is_no_record_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a startup"):
        traces.startup_of(record)
    with pytest.raises(ValueError, match="not a span"):
        traces.span_of(record)


def test_trace_ends_with_its_root_or_with_the_last_that_is_known() -> None:
    root, child = span_of(STARTUP.span_id, 3_000_000_000), span_of("2" * 16, 2_000_000_000)

    assert StoredTrace(STARTUP, (child, root)).seconds == 2.0
    assert StoredTrace(STARTUP, (child,)).seconds == 1.0
    assert StoredTrace(STARTUP, (child,)).root is None
    assert StoredTrace(STARTUP, ()).seconds == 0.0
    assert STARTUP.pod == "default/web"


def test_root_that_ended_twice_counts_with_its_last_end() -> None:
    ends = (span_of(STARTUP.span_id, 2_000_000_000), span_of(STARTUP.span_id, 4_000_000_000))

    assert StoredTrace(STARTUP, ends).end == 4_000_000_000
