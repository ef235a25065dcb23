"""The span exporter: the program that sends spans to a collector, by OpenTelemetry's SDK.

    {"trace_id": "…", "state": "", "span": {...}}               see `encoding`

The daemon starts it as `cri-proxy span-exporter` (see `sender` and `lib.child`). It reads such
lines from standard input until its end, queues them within bounds, sends batches by OTLP over HTTP
or gRPC, and exits when it has sent the rest. Endpoint, protocol, headers, certificates, timeouts,
batches, limits and resource attributes follow OpenTelemetry's OTEL_* variables; our settings cover
the usual ones.

A collector that does not answer costs its spans and nothing else, with one warning a minute.
"""

from __future__ import annotations

import functools
import json
import logging
import os
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
from cri_proxy.lib import child
from cri_proxy.telemetry import logs
from cri_proxy.telemetry.sender import ENDPOINTS, ExporterInit

PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACES: Final = "/v1/traces"
_CLOSE_SECONDS: Final = 4.0
_WARN_SECONDS: Final = 60.0
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("cri_proxy", cri_proxy.__version__)
_log = logs.of(__name__)


def main() -> int:
    """Send what comes on standard input; return the exit status."""
    init = child.begin(ExporterInit)
    if init is None:
        return 0
    logs.setup(init.log)
    processor = BatchSpanProcessor(_WarningExporter(exporter_of(init, os.environ)))
    span_of = functools.partial(_span_of, resource_of(os.environ), SpanLimits())
    for line in iter(sys.stdin.buffer.readline, b""):
        if line.endswith(b"\n"):
            processor.on_end(span_of(json.loads(line)))
    ending = threading.Thread(target=processor.shutdown, daemon=True)
    ending.start()
    ending.join(_CLOSE_SECONDS)
    return 0


def exporter_of(init: ExporterInit, environment: Mapping[str, str]) -> SpanExporter:
    """Return the SDK's exporter: as the variables say, or else the settings."""
    is_elsewhere = any(environment.get(variable) for variable in ENDPOINTS)
    endpoint = None if is_elsewhere else init.endpoint or None
    protocol = next(
        (environment[variable] for variable in PROTOCOLS if environment.get(variable)),
        init.protocol,
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

    if endpoint is not None and not urlsplit(endpoint).path:
        endpoint += _TRACES
    return http_exporter.OTLPSpanExporter(endpoint=endpoint)


def resource_of(environment: Mapping[str, str]) -> Resource:
    """Return the resource of all spans.

    OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME take precedence.
    """
    host = socket.gethostname()
    return Resource.create(
        {
            "service.name": "cri-proxy",
            "service.version": cri_proxy.__version__,
            "host.name": host,
            # kubelet's default name of a node; a DaemonSet sets NODE_NAME.
            "k8s.node.name": environment.get("NODE_NAME") or host.lower(),
            **OTELResourceDetector().detect().attributes,
        }
    )


def _span_of(resource: Resource, limits: SpanLimits, line: Mapping[str, Any]) -> ReadableSpan:
    """Return the SDK's span of a line."""
    record: Mapping[str, Any] = line["span"]
    state = TraceState.from_header([line["state"]]) if line["state"] else None
    trace_id, parent_id = line["trace_id"], record["parent_id"]
    is_error = record["status"] == "error"
    return ReadableSpan(
        record["name"],
        _context_of(trace_id, record["span_id"], state),
        parent=None if parent_id is None else _context_of(trace_id, parent_id, state),
        resource=resource,
        attributes=BoundedAttributes(
            limits.max_span_attributes,
            record["attributes"],
            max_value_len=limits.max_span_attribute_length,
        ),
        links=[
            Link(_context_of(link["trace_id"], link["span_id"]))
            for link in record["links"][: limits.max_links]
        ],
        kind=SpanKind[record["kind"].upper()],
        status=Status(StatusCode.ERROR, record["message"]) if is_error else Status(),
        start_time=record["start"],
        end_time=record["end"],
        instrumentation_scope=_SCOPE,
    )


class _WarningExporter(SpanExporter):
    """An exporter whose failures are logged once a minute, in one line."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._warned_at = -_WARN_SECONDS
        # The SDK logs every attempt with the exception's own text, and every span that is dropped.
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


def _context_of(trace_id: str, span_id: str, state: TraceState | None = None) -> SpanContext:
    ids = int(trace_id, 16), int(span_id, 16)
    return SpanContext(*ids, is_remote=False, trace_flags=_SAMPLED, trace_state=state)
