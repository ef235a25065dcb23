"""Each test runs a program of its own: OpenTelemetry has one provider in a process."""

import http.server
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import io, json, sys
from cri_proxy.settings import schema
from cri_proxy.telemetry import logs, spans

stream = io.StringIO()
logs.setup(schema.Log(format="json"), stream=stream)
stop = spans.setup(schema.Tracing(*sys.argv[1:]))
try:
    with spans.span("realizer.realize", **{"flox.environment.reference": "a/b:3"}) as span:
        span.set_attribute("cri_proxy.paths", 300)
        with spans.span("store.fetch"):
            logs.of("test").info("inside")
            raise ValueError("broke off")
except ValueError:
    pass
logs.of("test").info("outside")
stop()
inside, outside = map(json.loads, stream.getvalue().splitlines())
print(json.dumps({
    "is_on": spans.is_on(),
    "has_sdk": "opentelemetry.sdk" in sys.modules,
    "inside": inside.get("trace_id"),
    "outside": outside.get("trace_id"),
}))
"""


@pytest.fixture
def collector():
    """A collector of OTLP over HTTP: its URL, and a queue of (path, request)."""
    received: queue.Queue[tuple[str, ExportTraceServiceRequest]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


def run(*settings, **variables):
    """Run the program with the arguments of the tracing settings; return what it tells."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *settings],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_spans_go_to_the_collector_of_the_settings(collector):
    url, received = collector

    told = run("otlp", url)

    path, request = received.get(timeout=30)
    (resource,) = request.resource_spans
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    facts = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert path == "/v1/traces"
    assert facts["service.name"] == "cri-proxy"
    assert spans["store.fetch"].parent_span_id == spans["realizer.realize"].span_id
    assert {each.key for each in spans["realizer.realize"].attributes} == {
        "flox.environment.reference",
        "cri_proxy.paths",
    }
    assert spans["store.fetch"].events[0].name == "exception"
    assert told["inside"] == spans["store.fetch"].trace_id.hex()


def test_a_line_inside_a_span_carries_its_trace_and_one_outside_does_not(collector):
    told = run("otlp", collector[0])

    assert len(told["inside"]) == 32
    assert told["outside"] is None


def test_the_variables_of_opentelemetry_are_enough(collector):
    url, received = collector

    run(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_SERVICE_NAME="node-7")

    _, request = received.get(timeout=30)
    facts = {
        each.key: each.value.string_value for each in request.resource_spans[0].resource.attributes
    }
    assert facts["service.name"] == "node-7"


def test_an_endpoint_with_a_path_is_used_as_it_is(collector):
    url, received = collector

    run("otlp", f"{url}/tenant/v1/traces")

    assert received.get(timeout=30)[0] == "/tenant/v1/traces"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_collector_spans_are_nothing_and_the_sdk_is_not_even_imported(variables):
    told = run(**variables)

    assert told == {"is_on": False, "has_sdk": False, "inside": None, "outside": None}
