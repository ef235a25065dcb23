"""The span queue: what is kept, what is sent, and what a full queue costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cri_proxy.lib.child import Program
from cri_proxy.model.traces import StoredStartup
from cri_proxy.telemetry import encoding, ring, spanqueue
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.sender import SpanSender
from cri_proxy.telemetry.spanqueue import SpanQueue
from cri_proxy.telemetry.spans import Context, Span
from hack.testbed import waiting

COPY = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())"
STARTUP = StoredStartup(
    trace_id=f"{0xA:032x}",
    span_id=f"{0xB:016x}",
    parent_id=None,
    started=1_700_000_000_000_000_000,
    uid="u",
    attempt=0,
    namespace="shop",
    name="web",
    is_annotated=True,
)


def span(name: str, *, is_sampled: bool = True) -> Span:
    made = Span(name, Context(0xA, 0xC, is_sampled, "a=1"), 0xB, start=5, attributes={})
    made.end = 9
    return made


def sender(place: Path) -> SpanSender:
    return SpanSender(Program((sys.executable, "-c", COPY, str(place)), {}, nice=0))


def test_spans_of_a_startup_are_kept_once_the_queue_is_closed(tmp_path: Path) -> None:
    queue = SpanQueue(Ring(tmp_path / "traces", keep=3), None)
    queue.begin(STARTUP)
    queue.take(span("call"))
    queue.close(60)

    (trace,) = ring.load(tmp_path / "traces")
    assert trace.startup == STARTUP
    assert [each.name for each in trace.spans] == ["call"]
    assert (queue.is_keeping, queue.is_sending) == (True, False)


def test_only_what_is_sampled_is_sent(tmp_path: Path) -> None:
    queue = SpanQueue(None, sender(tmp_path / "sent"))
    queue.take(span("sampled"))
    queue.take(span("not", is_sampled=False))
    queue.close(60)

    _, *lines = map(json.loads, (tmp_path / "sent").read_text().splitlines())
    assert [line["span"]["name"] for line in lines] == ["sampled"]
    assert (lines[0]["trace_id"], lines[0]["state"]) == (f"{0xA:032x}", "a=1")
    assert (queue.is_keeping, queue.is_sending) == (False, True)
    assert queue.recent(60) == []


def test_what_does_not_fit_into_the_queue_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spanqueue, "_QUEUED_AT_MOST", 2)
    monkeypatch.setattr(spanqueue, "_GATHER_SECONDS", 3600.0)  # until it is closed
    queue = SpanQueue(Ring(tmp_path / "traces", keep=3), None)
    for name in ("one", "two", "three"):
        queue.take(span(name))
    queue.begin(STARTUP)
    queue.close(60)

    (trace,) = ring.load(tmp_path / "traces")
    assert [each.name for each in trace.spans] == ["one", "two"]


def test_a_span_that_cannot_be_encoded_does_not_end_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_span = encoding.of_span

    def fail(each: Span) -> object:
        if each.name == "broken":
            raise ValueError("no such span")
        return of_span(each)

    monkeypatch.setattr(encoding, "of_span", fail)
    monkeypatch.setattr(spanqueue, "_GATHER_SECONDS", 0.001)
    queue = SpanQueue(Ring(tmp_path / "traces", keep=3), None)
    queue.begin(STARTUP)
    queue.take(span("broken"))
    waiting.until(lambda: bool(caplog.records), what="the fault to be logged")
    queue.take(span("last"))
    queue.close(60)

    (trace,) = ring.load(tmp_path / "traces")
    assert [each.name for each in trace.spans][-1:] == ["last"]
    assert "spans were lost by a fault" in caplog.text
