"""Where spans go; each test runs a program of its own, since a process has one span queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.collector import Collector

ROOT = Path(__file__).parents[2]
PROGRAM = """
import contextlib, io, json, pathlib, sys
from cri_proxy.model.traces import StoredStartup
from cri_proxy.settings import schema
from cri_proxy.telemetry import logs, provider, ring, spans

stream = io.StringIO()
log = schema.LogSettings(format="json")
logs.setup(log, stream=stream)
settings = schema.TracingSettings(**json.loads(sys.argv[1]))
kept = ring.Ring(pathlib.Path(sys.argv[2]), keep=5) if sys.argv[2] else None
installed = None
if kept or provider.is_sent(settings):
    installed = provider.install(settings, log, ring=kept)
ids = (int("a" * 32, 16), int("b" * 16, 16))
is_on = installed is not None
if kept:
    installed.begin(StoredStartup(trace_id="a" * 32, span_id="b" * 16, parent_id=None, started=1,
                                  uid="u", attempt=0, namespace="n", name="p", is_annotated=True))
parent = spans.root("pod.startup", ids, parent=None, start=1, attributes={})
call = spans.below(parent.context, "call", kind="server", attributes={})
try:
    with contextlib.nullcontext() if not is_on else spans.Entered(call, is_bare=True):
        with spans.span("realizer.realize", **{"flox.environment.reference": "a/b:3"}) as span:
            span.set_attribute("cri_proxy.paths", 300)
            span.set_attribute("floxhub.token", "do-not-tell")
            with spans.span("store.fetch"):
                spans.replay([["store.unpack", 5, 9]])
                logs.of("test").info("inside")
                raise ValueError("broke off")
except ValueError:
    pass
parent.finish()
logs.of("test").info("outside")
if installed:
    provider.uninstall(installed, 60)  # this machine may be busy
lines = [json.loads(line) for line in stream.getvalue().splitlines()]
print(json.dumps({
    "is_on": is_on,
    "inside": next(line for line in lines if line["event"] == "inside").get("trace_id"),
    "outside": next(line for line in lines if line["event"] == "outside").get("trace_id"),
    "lines": [line["event"] for line in lines],
    "sampled": call.context.is_sampled,
}))
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def run(
    settings: dict[str, object] | None = None, ring: Path | str = "", **variables: str
) -> dict[str, Any]:
    """Run the program with tracing settings; return what was seen of it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings or {}), str(ring)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
        timeout=90,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    seen["lines"] += [json.loads(line)["event"] for line in done.stderr.splitlines()]
    return seen


def sending(collector: Collector, **settings: object) -> dict[str, object]:
    return {"exporter": "otlp", "endpoint": collector.url, **settings}


def test_spans_go_to_the_collector_of_the_settings(collector: Collector) -> None:
    seen = run(sending(collector))

    fetch = collector.wait("store.fetch")
    (realize,) = collector.spans("realizer.realize")
    assert collector.paths == ["/v1/traces"]
    assert collector.resources[0]["service.name"] == "cri-proxy"
    assert collector.resources[0]["k8s.node.name"]
    assert fetch.parent_id == realize.span_id
    assert realize.attributes["cri_proxy.paths"] == 300
    assert (fetch.is_error, fetch.message) == (True, "broke off")
    assert fetch.attributes["error.type"] == "ValueError"
    assert fetch.events == ()
    assert seen["inside"] == fetch.trace_id


def test_a_span_has_the_ids_that_it_is_given_and_what_is_below_it_is_of_its_trace(
    collector: Collector,
) -> None:
    run(sending(collector))

    root = collector.wait("pod.startup")
    assert (root.trace_id, root.span_id) == ("a" * 32, "b" * 16)
    assert {span.trace_id for span in collector.spans()} == {"a" * 32}
    assert [span.name for span in collector.children(root)] == ["call"]


def test_the_steps_of_a_job_are_spans_of_their_own_times(collector: Collector) -> None:
    run(sending(collector))

    step = collector.wait("store.unpack")
    assert (step.start, step.end) == (5, 9)
    assert step.parent_id == collector.spans("store.fetch")[0].span_id


def test_a_line_inside_a_span_carries_its_trace_and_one_outside_does_not(
    collector: Collector,
) -> None:
    seen = run(sending(collector))

    assert len(seen["inside"]) == 32
    assert seen["outside"] is None


def test_the_variables_of_opentelemetry_are_enough(collector: Collector) -> None:
    run(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_SERVICE_NAME="node-7",
        OTEL_RESOURCE_ATTRIBUTES="k8s.node.name=seven,deployment.environment.name=test",
    )

    collector.wait("store.fetch")
    facts = collector.resources[0]
    assert facts["service.name"] == "node-7"
    assert facts["k8s.node.name"] == "seven"
    assert facts["deployment.environment.name"] == "test"


def test_an_endpoint_with_a_path_is_used_as_it_is(collector: Collector) -> None:
    run({"exporter": "otlp", "endpoint": f"{collector.url}/tenant/v1/traces"})

    collector.wait("store.fetch")
    assert collector.paths[0] == "/tenant/v1/traces"


def test_the_variables_have_the_last_word_over_the_settings(collector: Collector) -> None:
    settings = {"exporter": "otlp", "endpoint": "http://127.0.0.1:9", "protocol": "grpc"}
    run(
        settings,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )

    collector.wait("store.fetch")


@pytest.mark.parametrize("is_variable", [True, False], ids=["variable", "setting"])
def test_spans_go_over_grpc_to_whom_it_is_said(collector: Collector, is_variable: bool) -> None:
    if is_variable:
        variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        seen = run(OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_url, **variables)
    else:
        settings = {"exporter": "otlp", "protocol": "grpc", "endpoint": collector.grpc_url}
        seen = run(settings)

    fetch = collector.wait("store.fetch")
    assert collector.paths == ["grpc"]
    assert collector.resources[0]["service.name"] == "cri-proxy"
    assert seen["inside"] == fetch.trace_id


def test_a_protocol_that_is_not_supported_is_logged_and_replaced(collector: Collector) -> None:
    seen = run(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_PROTOCOL="http/json")

    collector.wait("store.fetch")
    assert any("over HTTP with protobuf" in line for line in seen["lines"])


def test_a_startup_that_is_not_sampled_is_kept_and_not_sent(
    collector: Collector, tmp_path: Path
) -> None:
    seen = run(sending(collector, share=0), tmp_path / "traces")

    (file,) = (tmp_path / "traces").iterdir()
    assert "store.fetch" in file.read_text()
    assert seen["sampled"] is False
    assert collector.spans() == []


def test_the_sampler_of_opentelemetrys_variables_has_the_last_word(collector: Collector) -> None:
    run(sending(collector), OTEL_TRACES_SAMPLER="always_off")

    assert collector.spans() == []


def test_what_is_called_a_secret_is_not_kept(tmp_path: Path) -> None:
    run({}, tmp_path / "traces")

    (file,) = (tmp_path / "traces").iterdir()
    assert "do-not-tell" not in file.read_text()


def test_a_collector_that_fails_is_logged_once(collector: Collector) -> None:
    collector.status = 400

    seen = run(sending(collector))

    assert seen["lines"].count("traces are lost: the collector does not take them") == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_spans_are_neither_sent_nor_kept_they_are_nothing(variables: dict[str, str]) -> None:
    seen = run({}, **variables)

    assert seen["is_on"] is False
    assert seen["inside"] is seen["outside"] is None
