"""Spans: one line around each outward step, a trace per pod start when somebody collects them.

    with spans.span("realizer.realize", **{"flox.environment.reference": str(reference)}) as span:
        ...
        span.set_attribute("cri_proxy.paths", 300)

The API is OpenTelemetry's; this module only makes the usual thing short and the unused thing free:
without a collector `span` does nothing at all, not even for logs. `setup` installs the SDK when the
settings or OpenTelemetry's own variables name a collector; it is imported only then.

Every span of ours belongs to a pod that asked for an environment, so all are sampled by default:
kubelet passes on unsampled contexts when its own tracing is off, and following them would lose the
one trace that an operator looks for. OTEL_TRACES_SAMPLER decides otherwise.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

import cri_proxy
from cri_proxy.settings import schema

_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACES: Final = "/v1/traces"


@contextlib.contextmanager
def span(name: str, /, **attributes: AttributeValue) -> Iterator[trace.Span]:
    """Run the body in an inner span, a child of the current one.

    It records the exception that leaves it. Names with dots are given as `**{"a.b": value}`.
    """
    if not is_on():
        yield trace.INVALID_SPAN
        return
    with tracer().start_as_current_span(name, attributes=attributes) as current:
        yield current


def tracer() -> trace.Tracer:
    """Return the tracer for spans that need more: a kind, a parent, links, an end of their own."""
    return trace.get_tracer("cri_proxy", cri_proxy.__version__)


def is_on() -> bool:
    """Whether spans go anywhere; callers may skip work that only a span would need."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def setup(
    settings: schema.Tracing, *, environment: Mapping[str, str] = os.environ
) -> Callable[[], None]:
    """Install the exporter if one is wanted; return what sends the rest and stops it.

    Can be done once in a process: OpenTelemetry keeps one provider.
    """
    if not _is_wanted(settings, environment):
        return _nothing
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create(
        {
            "service.name": environment.get("OTEL_SERVICE_NAME", "cri-proxy"),
            "service.version": cri_proxy.__version__,
            "host.name": socket.gethostname(),
        }
    )
    sampler = None if "OTEL_TRACES_SAMPLER" in environment else ALWAYS_ON
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    endpoint = endpoint_of(settings.endpoint)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def endpoint_of(url: str) -> str | None:
    """Return where spans are posted: OTLP's path unless `url` has one; None for the SDK's own."""
    if not url:
        return None
    return url if urlsplit(url).path else url + _TRACES


def _is_wanted(settings: schema.Tracing, environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if settings.exporter == "otlp":
        return True
    # The specification's own way to say no although an endpoint is set for other signals.
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(variable) for variable in _VARIABLES)


def _nothing() -> None:
    pass
