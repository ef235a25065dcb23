"""The sender's far half: the program that sends spans, by OpenTelemetry's SDK.

    {"endpoint": "", "protocol": "http", "log": {...}}          the greeting
    {"trace_id": "…", "state": "", "span": {...}}               a span, see `records`

It reads lines from standard input until their end, queues them within bounds, and sends batches by
OTLP over HTTP or gRPC; then it sends the rest and leaves. What is sent where and how is
OpenTelemetry's business and follows its OTEL_* variables: endpoint, protocol, headers,
certificates, timeouts, batches, limits, resource attributes. Our settings say the usual of it in
fewer words.

A collector that does not answer costs its spans and nothing else, with one warning a minute.
Signals that a terminal or systemd sends to the whole group are left to the daemon.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

import cri_proxy
from cri_proxy.lib import scheduling
from cri_proxy.settings import schema
from cri_proxy.telemetry import logs

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACES: Final = "/v1/traces"
_CLOSE_SECONDS: Final = 4.0
_WARN_SECONDS: Final = 60.0
_NICE: Final = 10
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("cri_proxy", cri_proxy.__version__)
_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}
_log = logs.of(__name__)


def main() -> int:
    """Send what comes on standard input; return the exit status."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    scheduling.compute(_NICE)
    lines = iter(sys.stdin.buffer.readline, b"")
    first = next(lines, b"")
    if not first:
        return 0
    greeting = json.loads(first)
    logs.setup(schema.LogSettings(**greeting["log"]))
    processor = BatchSpanProcessor(_Patient(exporter_of(greeting, os.environ)))
    make = _Maker(resource_of(os.environ))
    for line in lines:
        if line.endswith(b"\n"):
            processor.on_end(make(json.loads(line)))
    ending = threading.Thread(target=processor.shutdown, daemon=True)
    ending.start()
    ending.join(_CLOSE_SECONDS)
    return 0


def exporter_of(greeting: Mapping[str, Any], environment: Mapping[str, str]) -> SpanExporter:
    """Return what sends, as the variables say and else the settings."""
    is_elsewhere = any(environment.get(variable) for variable in ENDPOINTS)
    endpoint = None if is_elsewhere else greeting["endpoint"] or None
    protocol = next(
        (environment[variable] for variable in PROTOCOLS if environment.get(variable)),
        greeting["protocol"],
    )
    # Each is imported only where it is used.
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_exporter

        return grpc_exporter.OTLPSpanExporter(endpoint=endpoint)
    if protocol not in ("http", "http/protobuf"):
        _log.warning(
            "traces are sent by OTLP over HTTP with protobuf, whatever the variable says",
            protocol=protocol,
            advice="set the variable to http/protobuf or grpc",
        )
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter

    return http_exporter.OTLPSpanExporter(
        endpoint=None if endpoint is None else _with_path(endpoint)
    )


def resource_of(environment: Mapping[str, str]) -> Resource:
    """Return who speaks; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME have the last word."""
    host = socket.gethostname()
    return Resource.create(
        {
            "service.name": "cri-proxy",
            "service.version": cri_proxy.__version__,
            "host.name": host,
            # What kubelet calls a node unless it is told otherwise; a DaemonSet sets NODE_NAME.
            "k8s.node.name": environment.get("NODE_NAME") or host.lower(),
            **OTELResourceDetector().detect().attributes,
        }
    )


class _Maker:
    """Makes spans of the SDK's out of records."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._limits = SpanLimits()

    def __call__(self, line: Mapping[str, Any]) -> ReadableSpan:
        record: Mapping[str, Any] = line["span"]
        trace_id = int(line["trace_id"], 16)
        state = TraceState.from_header([line["state"]]) if line["state"] else None
        limits = self._limits
        return ReadableSpan(
            record["name"],
            _context_of(trace_id, record["span_id"], state),
            parent=None
            if record["parent_id"] is None
            else _context_of(trace_id, record["parent_id"], state),
            resource=self._resource,
            attributes=BoundedAttributes(
                limits.max_span_attributes,
                record["attributes"],
                max_value_len=limits.max_span_attribute_length,
            ),
            links=[
                Link(_context_of(int(link["trace_id"], 16), link["span_id"]))
                for link in record["links"][: limits.max_links]
            ],
            kind=_KINDS[record["kind"]],
            status=Status(StatusCode.ERROR, record["message"])
            if record["status"] == "error"
            else Status(),
            start_time=record["start"],
            end_time=record["end"],
            instrumentation_scope=_SCOPE,
        )


class _Patient(SpanExporter):
    """An exporter whose failures are told once a minute, in one line."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._warned_at = -_WARN_SECONDS
        # It would tell every attempt, with the exception's own text; the queue, every span.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            return result
        self._lost += len(spans)
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            _log.warning(
                "traces are lost: the collector does not take them",
                spans=self._lost,
                advice="check tracing.endpoint, and tracing.protocol: OTLP over HTTP is usually at "
                "port 4318, over gRPC at 4317",
            )
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _context_of(trace_id: int, span_id: str, state: TraceState | None = None) -> SpanContext:
    return SpanContext(
        trace_id, int(span_id, 16), is_remote=False, trace_flags=_SAMPLED, trace_state=state
    )


def _with_path(url: str) -> str:
    """Return where spans are posted: OTLP's path unless `url` has one."""
    return url if urlsplit(url).path else url + _TRACES
