"""The provider: OpenTelemetry's SDK, installed when traces are sent, kept, or both.

    spans ──> ring            every startup that is traced, if the node keeps any
          └─> batches ──> OTLP over HTTP        what is sampled, from a thread of its own

What is sent is OpenTelemetry's business and follows its OTEL_* variables: endpoint, headers,
certificates, timeouts, batches, resource attributes, sampler. Our settings say the usual of it in
fewer words. Without OTEL_TRACES_SAMPLER a startup of kubelet's own sampled trace is always sent,
and of the others the share that the settings name: kubelet passes on unsampled contexts when its
own tracing is off, and following those would lose the one trace that an operator looks for.

A collector that does not answer costs its spans and nothing else: the queue is bounded, sending
waits for nobody, and the log has one warning a minute.

Only HTTP is spoken. OTLP over gRPC would run gRPC's synchronous stack, with its threads and its
pollers, in the process whose asynchronous one relays kubelet's calls.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

import cri_proxy
from cri_proxy.settings import schema
from cri_proxy.telemetry import logs, spans
from cri_proxy.telemetry.ring import Ring

CLOSE_SECONDS: Final = 5.0
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACES: Final = "/v1/traces"
_WARN_SECONDS: Final = 60.0
_log = logs.of(__name__)


class Provider:
    """What has been installed; `is_sending` says whether others may hang spans below ours."""

    def __init__(self, provider: TracerProvider, ring: Ring | None, *, is_sending: bool) -> None:
        self._provider = provider
        self.ring: Final = ring
        self.is_sending: Final = is_sending

    def close(self) -> None:
        """Send and write the rest, as far as that goes within seconds."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)
        if self.ring is not None:
            self.ring.close()


def install(
    settings: schema.Tracing,
    *,
    ring: Ring | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Provider:
    """Install the SDK for this process, which can be done once."""
    provider = TracerProvider(
        # An SDK's own choice by OTEL_TRACES_SAMPLER is made when it is given none.
        sampler=None if "OTEL_TRACES_SAMPLER" in environment else _sampler_of(settings),
        resource=_resource(environment),
        id_generator=_Ids(),
        shutdown_on_exit=False,
    )
    is_sending = is_sent(settings, environment)
    if ring is not None:
        provider.sampler = _Recording(provider.sampler)
        provider.add_span_processor(_Keeping(ring))
    if is_sending:
        _hold_to_http(environment)
        exporter = OTLPSpanExporter(endpoint=endpoint_of(settings.endpoint))
        provider.add_span_processor(BatchSpanProcessor(_Patient(exporter)))
    trace.set_tracer_provider(provider)
    return Provider(provider, ring, is_sending=is_sending)


def is_sent(settings: schema.Tracing, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether settings or OpenTelemetry's variables name a collector."""
    if settings.pods == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if settings.exporter == "otlp":
        return True
    # The specification's own way to say no although an endpoint is set for other signals.
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(variable) for variable in _VARIABLES)


def endpoint_of(url: str) -> str | None:
    """Return where spans are posted: OTLP's path unless `url` has one; None for the SDK's own."""
    if not url:
        return None
    return url if urlsplit(url).path else url + _TRACES


class _Ids(RandomIdGenerator):
    """Random ids, except for the span that `spans.root` is starting."""

    def generate_trace_id(self) -> int:
        forced = spans.FORCED.get()
        return super().generate_trace_id() if forced is None else forced[0]

    def generate_span_id(self) -> int:
        forced = spans.FORCED.get()
        return super().generate_span_id() if forced is None else forced[1]


class _Recording(Sampler):
    """Another sampler's decision about sending; what it drops is still recorded for the ring."""

    def __init__(self, sending: Sampler) -> None:
        self._sending = sending

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        decided = self._sending.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )
        if decided.decision is Decision.DROP:
            return SamplingResult(Decision.RECORD_ONLY, attributes, decided.trace_state)
        return decided

    def get_description(self) -> str:
        return f"Recording({self._sending.get_description()})"


class _Keeping(SpanProcessor):
    """Hands every span that has ended to the ring."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Keep nothing of what has only begun."""

    def on_end(self, span: ReadableSpan) -> None:
        self._ring.add(span)


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
                advice="check tracing.endpoint and that the collector speaks OTLP over HTTP",
            )
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _sampler_of(settings: schema.Tracing) -> Sampler:
    return ParentBased(TraceIdRatioBased(settings.share))


def _resource(environment: Mapping[str, str]) -> Resource:
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


def _hold_to_http(environment: Mapping[str, str]) -> None:
    """Say so when OpenTelemetry's variables ask for a protocol that is not spoken here."""
    for variable in _PROTOCOLS:
        if environment.get(variable, "http/protobuf") != "http/protobuf":
            _log.warning(
                "traces are sent by OTLP over HTTP, whatever the variable says",
                variable=variable,
                advice="give the collector's HTTP port, usually 4318",
            )
            return
