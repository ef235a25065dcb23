"""Startups on disk: bounded, readable while written, and whole whatever was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy.model.traces import StoredStartup
from cri_proxy.telemetry import encoding, ring
from cri_proxy.telemetry.ring import Ring
from cri_proxy.telemetry.spans import Context, Span, Value

ROOT_ID = 0xB
KEEP = 3


def startup(number: int) -> StoredStartup:
    return StoredStartup(
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


def add(kept: Ring, number: int, span_id: int, name: str, **attributes: Value) -> None:
    context = Context(number, span_id, is_sampled=True)
    span = Span(name, context, None, start=span_id, attributes=attributes)
    span.end = span_id + 5
    kept.add(f"{number:032x}", encoding.text_of(encoding.of_span(span)))


@pytest.fixture
def kept(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "traces", keep=KEEP)


def test_what_ended_is_read_again(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    add(kept, 1, 2, "call", **{"rpc.status_code": "OK"})
    add(kept, 1, ROOT_ID, "pod.startup")
    kept.flush()

    (trace,) = ring.load(tmp_path / "traces")

    assert trace.startup == startup(1)
    assert [each.name for each in trace.spans] == ["call", "pod.startup"]
    assert trace.spans[0].attributes == {"rpc.status_code": "OK"}
    assert trace.root is not None


def test_a_startup_under_way_has_no_root_yet(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    add(kept, 1, 2, "call")
    kept.flush()

    (trace,) = ring.load(tmp_path / "traces")

    assert trace.root is None


def test_the_oldest_startups_make_room(kept: Ring, tmp_path: Path) -> None:
    for number in range(1, KEEP + 3):
        kept.begin(startup(number))
    kept.flush()

    found = ring.load(tmp_path / "traces")

    assert [each.startup.name for each in found] == ["web-5", "web-4", "web-3"]


def test_spans_of_no_startup_are_not_kept(kept: Ring, tmp_path: Path) -> None:
    add(kept, 1, 2, "call")
    kept.flush()

    assert ring.load(tmp_path / "traces") == []


def test_a_startup_goes_on_in_the_same_file_after_a_restart(tmp_path: Path) -> None:
    first = Ring(tmp_path / "traces", keep=KEEP)
    first.begin(startup(1))
    add(first, 1, 2, "before")
    first.flush()
    second = Ring(tmp_path / "traces", keep=KEEP)
    add(second, 1, 3, "after")
    second.flush()

    (trace,) = ring.load(tmp_path / "traces")

    assert [each.name for each in trace.spans] == ["before", "after"]


def test_a_line_cut_off_by_a_crash_costs_itself_only(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    add(kept, 1, 2, "before")
    kept.flush()
    (file,) = (tmp_path / "traces").iterdir()
    with file.open("a") as half:
        half.write('\n{"span": {"name": "cut o')
    again = Ring(tmp_path / "traces", keep=KEEP)
    add(again, 1, 3, "after")
    again.flush()

    (trace,) = ring.load(tmp_path / "traces")

    assert [each.name for each in trace.spans] == ["before", "after"]


def test_one_startup_cannot_fill_the_disk(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    for number in range(ring.SPANS_AT_MOST + 100):
        add(kept, 1, number + 2, "call")
    kept.flush()

    (trace,) = ring.load(tmp_path / "traces")

    assert len(trace.spans) == ring.SPANS_AT_MOST


def test_credentials_in_urls_are_hidden(kept: Ring, tmp_path: Path) -> None:
    kept.begin(startup(1))
    add(kept, 1, 2, "call", **{"url.full": "https://me:pass@cache/x"})
    kept.flush()

    (file,) = (tmp_path / "traces").iterdir()

    assert "pass" not in file.read_text()


def test_a_directory_that_cannot_be_written_to_costs_the_spans_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traces").write_text("in the way")
    kept = Ring(tmp_path / "traces", keep=KEEP)
    for number in range(3):
        kept.begin(startup(number))
    kept.flush()

    assert [record.levelname for record in caplog.records] == ["WARNING"]
