"""Call tracing: a SERVER span for each call of a pod's lifecycle, a CLIENT span for its forward.

    kubelet's span                       if it sent a sampled context
      pod.startup                        see `startups`; `pod.stop` when a pod stops: see `stops`
        …/CreateContainer    SERVER      the call as kubelet sees it
          realizer.wait …                whatever the interceptor does
          …/CreateContainer  CLIENT      the call to the runtime, parent of the runtime's own spans

The tracer wraps the interceptors, and stands in for one where a method has none. It changes one
header of a call: where traces are sent, `traceparent` names the CLIENT span to the runtime.
Payloads, other metadata, statuses and exceptions pass unchanged.

A later call of the same kubelet trace is a child of kubelet's own span; a call with any other
context is a child of `pod.startup` and has a link to that context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cri_proxy.interposer import status
from cri_proxy.interposer.calls import Call, Interceptor, Metadata
from cri_proxy.telemetry import spans
from cri_proxy.telemetry.spans import Context, Span, Value
from cri_proxy.tracing import subjects
from cri_proxy.tracing.startups import Pod, Startup, Startups
from cri_proxy.tracing.stops import StopTraces
from cri_proxy.tracing.subjects import CallSubject

# The statuses that count as a server's own failure, by the semantic conventions for gRPC.
_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """Which pods are traced (`all` or `annotated`), and the sockets on both sides.

    `is_sending` means that spans reach a collector, so that the runtime's can be their children.
    """

    pods: str
    listen: Path
    endpoint: Path
    is_sending: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a call's span belongs: its parent and its links."""

    parent: Context
    links: tuple[Context, ...] = ()


def around(
    interceptors: Mapping[str, Interceptor],
    startups: Startups,
    stops: StopTraces,
    options: TracingOptions,
) -> dict[str, Interceptor]:
    """Return the interceptors with tracing around those of lifecycle calls, by method path.

    A router must send all that are returned to the interposer.
    """
    watched = subjects.ENDING if options.is_sending else {subjects.STOP_SANDBOX}
    kinds: dict[str, type[TracedStart | TracedStop]] = {
        **dict.fromkeys(subjects.BEGINNING, TracedStart),
        **dict.fromkeys(watched, TracedStop),
    }
    traced = {
        path: kind(path, interceptors.get(path, _forward), startups, stops, options)
        for path, kind in kinds.items()
    }
    return {**interceptors, **traced}


@dataclass(frozen=True, slots=True)
class _Traced:
    """What both kinds of traced methods have in common."""

    _path: str
    _inner: Interceptor
    _startups: Startups
    _stops: StopTraces
    _options: TracingOptions

    def _is_wanted(self, pod: Pod | None) -> bool:
        """Return whether the pod is to be traced by the settings, as far as the call shows."""
        return self._options.pods == "all" or (pod is not None and pod.is_annotated)

    async def _answer_alone(
        self, payload: bytes, call: Call, subject: CallSubject, kubelets: Context | None
    ) -> bytes:
        """Answer a call that is part of no startup or stop; in a span if kubelet traces it."""
        pod = subject.pod
        if kubelets is None or not kubelets.is_sampled or not self._is_wanted(pod):
            return await self._inner(payload, call)
        attributes = {**({} if pod is None else pod.attributes), **subject.attributes}
        return (await self._answer(payload, call, _Place(_decided(kubelets)), attributes))[0]

    async def _answer(
        self,
        payload: bytes,
        call: Call,
        place: _Place,
        attributes: dict[str, Value],
        tries: tuple[Startup, str] | None = None,
    ) -> tuple[bytes, CallSubject]:
        """Answer within a SERVER span; also return the ids that the response has."""
        name = self._path[1:]
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, **attributes}
        span = spans.below(
            place.parent,
            name,
            kind="server",
            attributes={**attributes, "server.address": str(self._options.listen)},
        )
        span.links.extend(place.links)
        if tries is not None:
            startup, what = tries
            number, before = startup.tried(what, span.context)
            if before is not None:
                span.set_attribute("cri_proxy.try", number)
                span.add_link(before)
        with _entered(span, is_server=True):
            answer = await self._inner(
                payload, _TracedCall(call, payload, attributes, self._options)
            )
            made = subjects.of_answer(self._path, answer)
            span.set_attributes(made.attributes)
        return answer, made


class TracedStart(_Traced):
    """A method that a pod starts with, traced."""

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Answer as the wrapped interceptor does, within spans."""
        subject = subjects.of_call(self._path, payload)
        if subject is None:
            return await self._inner(payload, call)
        kubelets = spans.context_of(call.metadata)
        startup = self._startup_of(subject, kubelets)
        if startup is None:
            return await self._answer_alone(payload, call, subject, kubelets)
        subject = _named(subject, startup)
        startup.enter()
        try:
            answer, made = await self._answer(
                payload,
                call,
                _place_in(startup, kubelets),
                {**startup.pod.attributes, **subject.attributes},
                (startup, f"{self._path} {subject.container} {subject.attempt}"),
            )
        except BaseException as error:
            self._startups.leave(startup, status.of_outcome(error)[1])
            raise
        self._startups.leave(startup, None)
        if made.sandbox_id:
            self._startups.ran(startup, made.sandbox_id)
        if made.container_id:
            self._startups.created(startup, made.container_id, subject.container, subject.attempt)
        return answer

    def _startup_of(self, subject: CallSubject, kubelets: Context | None) -> Startup | None:
        """Return the startup that the call is part of, if any."""
        if self._path == subjects.START_CONTAINER:
            return self._startups.of_container(subject.container_id)
        pod = subject.pod
        if pod is None or not self._is_wanted(pod):
            return None
        if self._path == subjects.RUN_SANDBOX:
            return self._startups.begin(pod, kubelets)
        found = self._startups.find(pod)
        if found is not None and found.is_open:
            return found
        if self._path == subjects.PULL_IMAGE or subject.attempt:
            return None  # a restart
        return self._startups.begin(pod, kubelets) if found is None else found


class TracedStop(_Traced):
    """A method that a pod stops with, traced where traces are sent."""

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Answer as the wrapped interceptor does, within spans."""
        subject = subjects.of_call(self._path, payload)
        if subject is None:
            return await self._inner(payload, call)
        if self._path == subjects.STOP_SANDBOX:
            self._startups.stop(subject.sandbox_id)
        if not self._options.is_sending:
            return await self._inner(payload, call)
        kubelets = spans.context_of(call.metadata)
        startup = (
            self._startups.of_container(subject.container_id)
            if subject.container_id
            else self._startups.of_sandbox(subject.sandbox_id)
        )
        if startup is None:
            return await self._answer_alone(payload, call, subject, kubelets)
        attributes = {**startup.pod.attributes, **_named(subject, startup).attributes}
        stop = self._stops.enter(startup)
        if kubelets is not None and kubelets.is_sampled:
            place = _Place(_decided(kubelets), (stop.context, startup.context))
        else:
            place = _Place(stop.context, () if kubelets is None else (kubelets,))
        try:
            answer, _ = await self._answer(payload, call, place, attributes)
        except BaseException as error:
            self._stops.leave(stop, status.of_outcome(error)[1])
            raise
        self._stops.leave(stop, None)
        return answer


@dataclass(slots=True)
class _TracedCall:
    """A call that is forwarded within a CLIENT span; otherwise the call that it wraps."""

    _call: Call
    _payload: bytes
    _attributes: dict[str, Value]
    _options: TracingOptions

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
        above = spans.current()
        span = spans.below(
            spans.NOTHING.context if above is None else above.context,
            self.method[1:],
            kind="client",
            attributes={
                **self._attributes,
                "server.address": str(self._options.endpoint),
                "cri_proxy.rewritten": payload != self._payload,
            },
        )
        if self._options.is_sending:
            metadata = (*metadata, (spans.TRACEPARENT, spans.traceparent_of(span.context)))
        with _entered(span, is_server=False):
            return await self._call.forward(payload, metadata=metadata)


async def _forward(payload: bytes, call: Call) -> bytes:
    """Forward the call unchanged: the interceptor of a method without one."""
    return await call.forward(payload)


def _place_in(startup: Startup, kubelets: Context | None) -> _Place:
    """Return the place of a call of a startup."""
    if kubelets is None:
        return _Place(startup.context)
    if not kubelets.is_sampled or kubelets.trace_id != startup.context.trace_id:
        return _Place(startup.context, (kubelets,))
    # The call that began the startup, whose root is a child of kubelet's span already.
    if startup.parent is not None and startup.parent.span_id == kubelets.span_id:
        return _Place(startup.context)
    return _Place(kubelets._replace(is_sampled=startup.context.is_sampled))


def _decided(kubelets: Context) -> Context:
    """Return kubelet's context with our sampler's decision."""
    return kubelets._replace(is_sampled=spans.is_sampled(kubelets.trace_id, kubelets))


def _named(subject: CallSubject, startup: Startup) -> CallSubject:
    """Return the subject with the container's name and attempt, if its id is known."""
    known = startup.containers.get(subject.container_id)
    return subject if known is None else replace(subject, container=known[0], attempt=known[1])


@contextlib.contextmanager
def _entered(span: Span, *, is_server: bool) -> Iterator[None]:
    """Run a call in its span, which gets the status of the call.

    A SERVER span stays the task's current one, so that a refusal is logged with its ids.
    """
    with spans.Entered(span, is_bare=True, is_last=is_server):
        try:
            yield
        except BaseException as error:
            code, message = status.of_outcome(error)
            span.set_attribute("rpc.status_code", code)
            if is_server and code not in _FAULTS:
                # The caller's fault, not the server's; the message is useful all the same.
                span.set_attribute("cri_proxy.status.message", message)
            else:
                span.set_attribute("error.type", code)
                span.fail(message)
            raise
        span.set_attribute("rpc.status_code", "OK")
