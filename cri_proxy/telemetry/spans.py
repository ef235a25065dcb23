"""Spans: one line around each outward step, a trace per pod start for whoever looks.

    with spans.span("realizer.realize", **{"flox.environment.reference": str(reference)}) as span:
        ...
        span.set_attribute("cri_proxy.paths", 300)

The API is OpenTelemetry's; this module only makes the usual thing short and the unused thing free:
where spans are neither sent nor kept `span` does nothing at all, not even for logs. `provider`
installs the SDK, and is imported only when it is wanted.

A span may also tell of what is over (`record`), of work in another process for one, and it may be
given its ids (`root`): the trace of a pod's startup is known by the pod, not by the proxy's memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Final, ParamSpec, TypeAlias, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.propagation import tracecontext
from opentelemetry.util.types import AttributeValue

import cri_proxy
from cri_proxy.lib import steps

TRACEPARENT: Final = "traceparent"
_PROPAGATOR: Final = tracecontext.TraceContextTextMapPropagator()

P = ParamSpec("P")
T = TypeVar("T")
Ids: TypeAlias = tuple[int, int]
FORCED: Final[ContextVar[Ids | None]] = ContextVar("forced", default=None)
"""The trace and span id of the span that is being started, where they are not left to chance."""


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


def of_function(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that runs a function in an inner span."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def within(*arguments: P.args, **named: P.kwargs) -> T:
            with span(name):
                return function(*arguments, **named)

        return within

    return decorate


def record(step: steps.Step, /, **attributes: AttributeValue) -> trace.Span:
    """Tell of something that is over, as a child of the current span."""
    if not is_on():
        return trace.INVALID_SPAN
    name, start, end = step
    found = tracer().start_span(name, start_time=start, attributes=attributes)
    found.end(end)
    return found


def replay(taken: Iterable[steps.Step], parent: trace.Span | None = None) -> None:
    """Tell of the steps that a job took, by default as children of the current span."""
    if not is_on():
        return
    context = None if parent is None else trace.set_span_in_context(parent)
    for name, start, end in taken:
        tracer().start_span(name, context=context, start_time=start).end(end)


def root(
    name: str,
    ids: Ids,
    *,
    parent: SpanContext | None,
    start: int,
    attributes: Mapping[str, AttributeValue],
) -> trace.Span:
    """Return a span with ids of its own, started at `start`; with a parent it is of its trace."""
    forced = FORCED.set(ids)
    try:
        return tracer().start_span(
            name,
            context=Context() if parent is None else context_in(parent),
            start_time=start,
            attributes=attributes,
        )
    finally:
        FORCED.reset(forced)


def started(
    name: str,
    *,
    kind: SpanKind,
    parent: SpanContext | None = None,
    links: Iterable[SpanContext] = (),
    attributes: Mapping[str, AttributeValue],
) -> contextlib.AbstractContextManager[trace.Span]:
    """Return the context of a span that leaves exceptions to the body; by default an inner one."""
    return tracer().start_as_current_span(
        name,
        context=None if parent is None else context_in(parent),
        kind=kind,
        links=[Link(each) for each in links],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


def annotate(**attributes: AttributeValue) -> None:
    """Say more about the current span, whoever has begun it."""
    trace.get_current_span().set_attributes(attributes)


def context_in(parent: SpanContext) -> Context:
    """Return a context that holds `parent` and nothing else."""
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def context_of(metadata: Iterable[tuple[str, str | bytes]]) -> SpanContext | None:
    """Return what a caller's metadata says about its own span; None if nothing valid."""
    carrier = {
        key: value
        for key, value in metadata
        if key in ("traceparent", "tracestate") and isinstance(value, str)
    }
    if TRACEPARENT not in carrier:
        return None
    found = _PROPAGATOR.extract(carrier, Context())
    context = trace.get_current_span(found).get_span_context()
    return context if context.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    """Return the header of W3C Trace Context that names a span."""
    trace_id = trace.format_trace_id(context.trace_id)
    span_id = trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{context.trace_flags & 1:02x}"


def tracer() -> trace.Tracer:
    """Return the tracer for spans that need more: a kind, a parent, links, an end of their own."""
    return _tracer_of(trace.get_tracer_provider())


def is_on() -> bool:
    """Whether spans go anywhere; callers may skip work that only a span would need."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@functools.lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    """Return the provider's tracer, which takes longer to be looked up than a span to be made."""
    return provider.get_tracer("cri_proxy", cri_proxy.__version__)
