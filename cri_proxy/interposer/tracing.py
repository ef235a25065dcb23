"""Tracing: a span around each call of a pod's startup, and one around what goes to the runtime.

    kubelet's span                       if it sent a sampled context
      pod.startup                        see `startups`
        …/CreateContainer    SERVER      the call as kubelet sees it
          realizer.wait …                whatever its interceptor does
          …/CreateContainer  CLIENT      what the runtime was asked; its own spans hang below this

It stands around the interceptors, or where there is none in the place of one, and changes nothing
about a call but one header: where traces are sent, the runtime is told of the CLIENT span in
`traceparent`. Payloads, other metadata, statuses and exceptions pass as they are.

A later call of the same kubelet trace is a child of kubelet's own span; a call with any other
context is a child of `pod.startup` and has a link to that context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue

from cri_proxy.interposer import status, subjects
from cri_proxy.interposer.calls import Call, Interceptor, Metadata
from cri_proxy.interposer.startups import Startup, Startups
from cri_proxy.interposer.subjects import Subject
from cri_proxy.telemetry import spans

METHODS: Final = subjects.METHODS
"""Paths of the methods that are traced: a router must send these to the interposer as well."""

# What of a server's statuses is the server's own failure, by the conventions for gRPC.
_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)

Attributes: TypeAlias = dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Options:
    """Which pods are traced (`all` or `annotated`), who is between, and whether others follow.

    `is_sending` says that spans reach a collector, so that the runtime's may hang below them.
    """

    pods: str
    listen: Path
    endpoint: Path
    is_sending: bool


def around(
    interceptors: Mapping[str, Interceptor], startups: Startups, options: Options
) -> dict[str, Interceptor]:
    """Return the interceptors with tracing around those of METHODS, by method path."""
    traced = {
        path: Traced(path, interceptors.get(path, _forward), startups, options) for path in METHODS
    }
    return {**interceptors, **traced}


class Traced:
    """One method, traced."""

    def __init__(self, path: str, inner: Interceptor, startups: Startups, options: Options) -> None:
        self._path = path
        self._inner = inner
        self._startups = startups
        self._options = options
        self._rpc: Attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": path[1:],
        }

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Answer as the interceptor inside does, and tell of it."""
        subject = subjects.of_call(self._path, payload)
        if subject is None:
            return await self._inner(payload, call)
        if self._path == subjects.STOP_SANDBOX:
            self._startups.stop(subject.sandbox_id)
            return await self._inner(payload, call)
        kubelets = spans.context_of(call.metadata)
        startup = self._startup_of(subject, kubelets)
        if startup is not None and subject.container_id in startup.containers:
            name, attempt = startup.containers[subject.container_id]
            subject = replace(subject, container=name, attempt=attempt)
        if startup is None:
            if not self._is_kubelets_own(subject, kubelets):
                return await self._inner(payload, call)
            return await self._answer(payload, call, subject, None, kubelets)
        self._startups.enter(startup)
        failure: str | None = "cri-proxy gave the call up"
        try:
            answer = await self._answer(payload, call, subject, startup, kubelets)
            failure = None
        except BaseException as error:
            failure = status.of_outcome(error)[1]
            raise
        finally:
            self._startups.leave(startup, failure)
        return answer

    def _startup_of(self, subject: Subject, kubelets: SpanContext | None) -> Startup | None:
        """Return the startup that the call is part of, if it is part of any."""
        if self._path == subjects.START_CONTAINER:
            return self._startups.of_container(subject.container_id)
        pod = subject.pod
        if pod is None or not self._is_wanted(subject):
            return None
        if self._path == subjects.RUN_SANDBOX:
            return self._startups.begin(pod, kubelets)
        found = self._startups.find(pod)
        if found is not None and found.is_open:
            return found
        if self._path == subjects.PULL_IMAGE or subject.attempt:
            return None  # a restart
        return self._startups.begin(pod, kubelets) if found is None else found

    def _is_wanted(self, subject: Subject) -> bool:
        """Whether the settings want the pod traced, as far as the call tells."""
        if self._options.pods == "all":
            return True
        return subject.pod is not None and subject.pod.is_annotated

    def _is_kubelets_own(self, subject: Subject, kubelets: SpanContext | None) -> bool:
        """Whether a call outside of any startup is worth spans: kubelet traces it itself."""
        return kubelets is not None and kubelets.trace_flags.sampled and self._is_wanted(subject)

    async def _answer(
        self,
        payload: bytes,
        call: Call,
        subject: Subject,
        startup: Startup | None,
        kubelets: SpanContext | None,
    ) -> bytes:
        """Answer within a SERVER span."""
        pod = startup.pod if startup is not None else subject.pod
        common: Attributes = {
            **self._rpc,
            **(pod.attributes if pod is not None else {}),
            **subject.attributes,
        }
        parent, links = _place_of(startup, kubelets)
        with spans.started(
            self._path[1:],
            kind=SpanKind.SERVER,
            parent=parent,
            links=links,
            attributes={**common, "server.address": str(self._options.listen)},
        ) as span:
            if startup is not None:
                _count(span, startup, f"{self._path} {subject.container} {subject.attempt}")
            try:
                answer = await self._inner(
                    payload, _TracedCall(call, payload, common, self._options)
                )
            except BaseException as error:
                _tell(span, error, is_server=True)
                raise
            span.set_attribute("rpc.status_code", "OK")
            made = subjects.of_answer(self._path, answer)
            span.set_attributes(made.attributes)
        if startup is not None and made.sandbox_id:
            self._startups.ran(startup, made.sandbox_id)
        if startup is not None and made.container_id:
            self._startups.created(startup, made.container_id, subject.container, subject.attempt)
        return answer


class _TracedCall:
    """A call whose forwarding is a CLIENT span; to the interceptor it is the call itself."""

    def __init__(
        self, call: Call, payload: bytes, attributes: Attributes, options: Options
    ) -> None:
        self._call = call
        self._payload = payload
        self._attributes = attributes
        self._options = options

    @property
    def method(self) -> str:
        return self._call.method

    @property
    def metadata(self) -> Metadata:
        return self._call.metadata

    def remaining(self) -> float | None:
        return self._call.remaining()

    async def forward(
        self, payload: bytes, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> bytes:
        with spans.started(
            self.method[1:],
            kind=SpanKind.CLIENT,
            attributes={
                **self._attributes,
                "server.address": str(self._options.endpoint),
                "cri_proxy.rewritten": payload != self._payload,
            },
        ) as span:
            if self._options.is_sending:
                own = (spans.TRACEPARENT, spans.traceparent_of(span.get_span_context()))
                metadata = (*metadata, own)
            try:
                answer = await self._call.forward(payload, metadata=metadata)
            except BaseException as error:
                _tell(span, error, is_server=False)
                raise
            span.set_attribute("rpc.status_code", "OK")
            return answer


async def _forward(payload: bytes, call: Call) -> bytes:
    """Stand for a method that nobody intercepts."""
    return await call.forward(payload)


def _place_of(
    startup: Startup | None, kubelets: SpanContext | None
) -> tuple[SpanContext | None, Iterable[SpanContext]]:
    """Return the parent of a call's span, and what it has a link to."""
    if startup is None or kubelets is None:
        return (kubelets if startup is None else startup.context), ()
    if not kubelets.trace_flags.sampled or kubelets.trace_id != startup.context.trace_id:
        return startup.context, (kubelets,)
    # The call that began the startup: its root is a child of kubelet's span already.
    is_roots_parent = startup.parent is not None and startup.parent.span_id == kubelets.span_id
    return (startup.context if is_roots_parent else kubelets), ()


def _count(span: trace.Span, startup: Startup, what: str) -> None:
    """Make a repeated call recognizable: its number, and a link to the one before."""
    number, before = startup.tried(what, span.get_span_context())
    if before is not None:
        span.set_attribute("cri_proxy.try", number)
        span.add_link(before)


def _tell(span: trace.Span, error: BaseException, *, is_server: bool) -> None:
    """Tell how a call failed; whether that is an error depends on whose span it is."""
    code, message = status.of_outcome(error)
    span.set_attributes({"rpc.status_code": code})
    if is_server and code not in _FAULTS:
        # Refused as it should be: the words are worth having all the same.
        span.set_attribute("cri_proxy.status.message", message)
        return
    span.set_attribute("error.type", code)
    span.set_status(trace.StatusCode.ERROR, message)
