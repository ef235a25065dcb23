"""Startups on disk: bounded, readable while written, and whole whatever was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from cri_proxy.model.traces import Startup
from cri_proxy.telemetry import ring
from cri_proxy.telemetry.ring import Ring

ROOT_ID = 0xB
KEEP = 3


def startup(number: int) -> Startup:
    return Startup(
        trace_id=f"{number:032x}",
        span_id=f"{ROOT_ID:016x}",
        parent_id=None,
        started=1_700_000_000_000_000_000 + number * 1_000_000_000,
        uid=f"uid-{number}",
        attempt=0,
        namespace="shop",
        name=f"web-{number}",
        is_annotated=False,
    )


def span(number: int, span_id: int, name: str, **parts: object) -> ReadableSpan:
    context = SpanContext(number, span_id, False, TraceFlags(1))
    return ReadableSpan(name, context, start_time=span_id, end_time=span_id + 5, **parts)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path / "traces", keep=KEEP)
    yield made
    made.close()


def test_what_ended_is_read_again(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    kept.add(span(1, 2, "call", attributes={"rpc.status_code": "OK"}))
    kept.add(span(1, ROOT_ID, "pod.startup"))
    kept.close()

    (trace,) = ring.load(tmp_path / "traces")

    assert trace.startup == startup(1)
    assert [each.name for each in trace.spans] == ["call", "pod.startup"]
    assert trace.spans[0].attributes == {"rpc.status_code": "OK"}
    assert trace.root is not None


def test_a_startup_under_way_has_no_root_yet(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    kept.add(span(1, 2, "call"))
    kept.close()

    (trace,) = ring.load(tmp_path / "traces")

    assert trace.root is None


def test_the_oldest_startups_make_room(kept: Ring, tmp_path: Path) -> None:
    for number in range(1, KEEP + 3):
        kept.begin(startup(number))
    kept.close()

    found = ring.load(tmp_path / "traces")

    assert [each.startup.name for each in found] == ["web-5", "web-4", "web-3"]


def test_spans_of_no_startup_are_not_kept(kept: Ring, tmp_path: Path) -> None:
    kept.add(span(1, 2, "call"))
    kept.close()

    assert ring.load(tmp_path / "traces") == []


def test_a_startup_goes_on_in_the_same_file_after_a_restart(tmp_path: Path) -> None:
    first = Ring(tmp_path / "traces", keep=KEEP)
    first.begin(startup(1))
    first.add(span(1, 2, "before"))
    first.close()
    second = Ring(tmp_path / "traces", keep=KEEP)
    second.add(span(1, 3, "after"))
    second.close()

    (trace,) = ring.load(tmp_path / "traces")

    assert [each.name for each in trace.spans] == ["before", "after"]


def test_a_line_cut_off_by_a_crash_costs_itself_only(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    kept.add(span(1, 2, "before"))
    kept.close()
    (file,) = (tmp_path / "traces").iterdir()
    with file.open("a") as half:
        half.write('\n{"span": {"name": "cut o')
    again = Ring(tmp_path / "traces", keep=KEEP)
    again.add(span(1, 3, "after"))
    again.close()

    (trace,) = ring.load(tmp_path / "traces")

    assert [each.name for each in trace.spans] == ["before", "after"]


def test_one_startup_cannot_fill_the_disk(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    for number in range(ring.SPANS_AT_MOST + 100):
        kept.add(span(1, number + 2, "call"))
    kept.close()

    (trace,) = ring.load(tmp_path / "traces")

    assert len(trace.spans) == ring.SPANS_AT_MOST


def test_credentials_in_urls_are_hidden(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    kept.add(span(1, 2, "call", attributes={"url.full": "https://me:pass@cache/x"}))
    kept.close()

    (file,) = (tmp_path / "traces").iterdir()

    assert "pass" not in file.read_text()


def test_a_directory_that_cannot_be_written_to_costs_the_spans_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traces").write_text("in the way")
    kept = Ring(tmp_path / "traces", keep=KEEP)
    for number in range(3):
        kept.begin(startup(number))
    kept.close()

    assert [record.levelname for record in caplog.records] == ["WARNING"]
