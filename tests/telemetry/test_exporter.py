"""The program that sends spans: what it makes of records, and where it sends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

import cri_proxy
from cri_proxy.lib import child
from cri_proxy.settings.schema import LogSettings
from cri_proxy.telemetry import exporter
from cri_proxy.telemetry.sender import ExporterInit
from hack.testbed.collector import Collector

ROOT = Path(__file__).parents[2]
SPAN = {
    "name": "call",
    "span_id": "b" * 16,
    "parent_id": "c" * 16,
    "kind": "server",
    "start": 5,
    "end": 9,
    "status": "error",
    "message": "broke off",
    "attributes": {"rpc.method": "Status", "cri_proxy.paths": 300},
    "links": [{"trace_id": "d" * 32, "span_id": "e" * 16}],
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def export(collector: Collector, *lines: bytes, **variables: str) -> str:
    """Run the program with these lines on its input; return what it logs."""
    init = ExporterInit(collector.url, "http", LogSettings(format="json"))
    head = child.init_line_of(init, nice=0)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | variables
    done = subprocess.run(
        [sys.executable, "-m", "cri_proxy", "span-exporter"],
        input=head + b"".join(lines),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
        timeout=90,
    )
    return done.stderr.decode()


def line(**changes: Any) -> bytes:
    record = {"trace_id": "a" * 32, "state": "vendor=1", "span": SPAN | changes}
    return json.dumps(record).encode() + b"\n"


def test_a_record_is_sent_as_the_span_that_it_describes(collector: Collector) -> None:
    logged = export(collector, line())

    (span,) = collector.spans()
    assert (span.name, span.trace_id, span.span_id) == ("call", "a" * 32, "b" * 16)
    assert (span.parent_id, span.start, span.end) == ("c" * 16, 5, 9)
    assert (span.is_error, span.message) == (True, "broke off")
    assert span.attributes == SPAN["attributes"]
    assert logged == ""


def test_a_line_that_was_cut_off_is_not_sent(collector: Collector) -> None:
    export(collector, line(name="whole"), line(name="half")[:-20])

    assert [span.name for span in collector.spans()] == ["whole"]


def test_limits_of_opentelemetrys_variables_hold(collector: Collector) -> None:
    export(collector, line(), OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="1")

    assert len(collector.spans()[0].attributes) == 1


@pytest.mark.parametrize(
    ("protocol", "variables", "kind"),
    [
        ("http", {}, HttpExporter),
        ("grpc", {}, GrpcExporter),
        ("http", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, GrpcExporter),
        ("grpc", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, HttpExporter),
    ],
)
def test_variables_take_precedence_over_the_settings_protocol(
    protocol: str, variables: dict[str, str], kind: type
) -> None:
    made = exporter.exporter_of(
        ExporterInit("http://127.0.0.1:9", protocol, LogSettings()), variables
    )

    assert isinstance(made, kind)
    made.shutdown()


def test_the_resource_names_program_version_and_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")

    attributes = exporter.resource_of({"NODE_NAME": "seven"}).attributes

    assert attributes["service.name"] == "cri-proxy"
    assert attributes["service.version"] == cri_proxy.__version__
    assert attributes["k8s.node.name"] == "seven"
    assert attributes["deployment.environment.name"] == "test"
