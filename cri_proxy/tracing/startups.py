"""Startups: which trace a call belongs to, from a pod's sandbox to its last container's start.

A startup is known by the pod's uid and the attempt of its sandbox. Its first call decides where
it belongs:

    kubelet's context is sampled    kubelet's trace; `pod.startup` is a child of kubelet's span
    anything else                   a trace of its own, whose id follows from uid and attempt

The id of `pod.startup` follows from uid and attempt in both cases, so a proxy that takes over in
the middle goes on with the same trace; what else it must know is in the ring (`resume`).

Nobody says how many containers a pod has. A startup is over when it has been quiet for a while:
`settle_seconds` after a call that went well, ten times that after a failure, which kubelet
tries again; at once when the sandbox is stopped. Its root then ends where its last call ended. A
container that is created for the first time later still (after a long init container) hangs below
the same root. One that restarts after that is not a startup any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import cachetools

from cri_proxy.model import traces
from cri_proxy.telemetry import logs, spans
from cri_proxy.telemetry.spanqueue import SpanQueue
from cri_proxy.telemetry.spans import Attributes, Context, Span, Value

_log = logs.of(__name__)
AFTER_FAILURE: Final = 10
_REMEMBERED: Final = 4096
_RECALL_SECONDS: Final = 30 * 86400.0
_CONTAINERS_REMEMBERED: Final = 16384
_SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of a call, as its sandbox's metadata has it."""

    uid: str
    attempt: int
    namespace: str
    name: str
    is_annotated: bool

    @property
    def key(self) -> tuple[str, int]:
        """What tells one startup from another."""
        return (self.uid, self.attempt)

    @property
    def attributes(self) -> dict[str, Value]:
        """What every span of its calls says about it."""
        return {
            "k8s.pod.uid": self.uid,
            "k8s.pod.name": self.name,
            "k8s.namespace.name": self.namespace,
        }


@dataclass(eq=False, slots=True)
class Startup:
    """One startup; its root is gone once it is over, what names the root stays.

    `containers` has name and attempt of each, by its id.
    """

    pod: Pod
    context: Context
    parent: Context | None
    root: Span | None
    started_at: int
    calls: int = 0
    ended_at: int = 0
    failure: str | None = None
    tries: dict[str, tuple[int, Context]] = field(default_factory=dict)
    containers: dict[str, tuple[str, int]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether its calls still count for its duration."""
        return self.root is not None

    def tried(self, what: str, context: Context) -> tuple[int, Context | None]:
        """Count a call that may be a repetition; return how often it came, and the one before."""
        count, before = self.tries.get(what, (0, None))
        self.tries[what] = (count + 1, context)
        return count + 1, before


class Startups:
    """All startups that one daemon sees; belongs to its event loop."""

    def __init__(
        self,
        *,
        outlet: SpanQueue | None,
        settle_seconds: float,
        facts: Callable[[], Attributes] = dict,
    ) -> None:
        """`facts` are attributes of every root, such as the runtime's version."""
        self._outlet = outlet if outlet is not None and outlet.is_keeping else None
        self._settle_seconds = settle_seconds
        self._facts = facts
        self._startups: cachetools.LRUCache[tuple[str, int], Startup] = _Evicting(
            _REMEMBERED, self._end
        )
        self._containers: cachetools.LRUCache[str, Startup] = cachetools.LRUCache(
            _CONTAINERS_REMEMBERED
        )
        self._sandboxes: cachetools.LRUCache[str, Startup] = cachetools.LRUCache(_REMEMBERED)

    def begin(self, pod: Pod, kubelets: Context | None) -> Startup:
        """Return the open startup of `pod`, a new one if there is none."""
        found = self._startups.get(pod.key)
        if found is not None and found.is_open:
            return found
        return self._begin(pod, _sampled(kubelets), time.time_ns())

    def find(self, pod: Pod) -> Startup | None:
        """Return the startup of `pod`, be it over, if it is known."""
        return self._startups.get(pod.key)

    def of_container(self, container_id: str) -> Startup | None:
        """Return the startup that the container was created in."""
        return self._containers.get(container_id)

    def of_sandbox(self, sandbox_id: str) -> Startup | None:
        """Return the startup that the sandbox was made in."""
        return self._sandboxes.get(sandbox_id)

    def created(self, startup: Startup, container_id: str, name: str, attempt: int) -> None:
        """Know the startup again by a container's id."""
        startup.containers[container_id] = (name, attempt)
        self._containers[container_id] = startup

    def ran(self, startup: Startup, sandbox_id: str) -> None:
        """Know the startup again by its sandbox's id."""
        self._sandboxes[sandbox_id] = startup

    def enter(self, startup: Startup) -> None:
        """Count a call that begins: meanwhile the startup is not over."""
        startup.calls += 1
        if startup.timer is not None:
            startup.timer.cancel()
            startup.timer = None

    def leave(self, startup: Startup, failure: str | None) -> None:
        """Count a call that has ended, well or with the words of `failure`."""
        startup.calls -= 1
        startup.ended_at = time.time_ns()
        startup.failure = failure
        if not startup.calls and startup.is_open:
            self._settle_in(startup, self._patience(startup))

    def stop(self, sandbox_id: str) -> None:
        """End the startup of a sandbox that is being stopped, if it is under way."""
        startup = self._sandboxes.get(sandbox_id)
        if startup is None:
            return
        if startup.calls:
            startup.ended_at = time.time_ns()
            startup.failure = "the sandbox was stopped while the pod was starting"
        self._end(startup)

    def resume(self) -> int:
        """Know what the last daemon knew, and go on with what was under way; count the latter."""
        if self._outlet is None:
            return 0
        count = 0
        for kept in self._outlet.recent(_RECALL_SECONDS):
            startup = self._resume(kept)
            count += startup.is_open
        return count

    def close(self) -> None:
        """Leave what is under way to the next daemon; without a ring, end it."""
        for startup in list(self._startups.values()):
            if startup.timer is not None:
                startup.timer.cancel()
            if self._outlet is None:
                self._end(startup)

    def _begin(self, pod: Pod, parent: Context | None, start: int) -> Startup:
        trace_id, span_id = ids_of(pod)
        if parent is not None:
            trace_id = parent.trace_id
        if self._outlet is not None:
            self._outlet.begin(
                traces.StoredStartup(
                    trace_id=f"{trace_id:032x}",
                    span_id=f"{span_id:016x}",
                    parent_id=None if parent is None else f"{parent.span_id:016x}",
                    started=start,
                    uid=pod.uid,
                    attempt=pod.attempt,
                    namespace=pod.namespace,
                    name=pod.name,
                    is_annotated=pod.is_annotated,
                )
            )
        return self._open(pod, (trace_id, span_id), parent, start)

    def _open(self, pod: Pod, ids: spans.Ids, parent: Context | None, start: int) -> Startup:
        root = spans.root(
            traces.ROOT,
            ids,
            parent=parent,
            start=start,
            attributes={
                **pod.attributes,
                "cri_proxy.sandbox.attempt": pod.attempt,
                "cri_proxy.pod.annotated": pod.is_annotated,
                **self._facts(),
            },
        )
        startup = Startup(pod, root.context, parent, root, start, ended_at=start)
        self._startups[pod.key] = startup
        return startup

    def _resume(self, kept: traces.StoredTrace) -> Startup:
        """Know a startup of the last daemon again, and go on with it if it was not over."""
        record = kept.startup
        pod = Pod(record.uid, record.attempt, record.namespace, record.name, record.is_annotated)
        last = max(kept.spans, key=lambda span: span.end, default=None)
        ended_at = record.started if last is None else last.end
        left = AFTER_FAILURE * self._settle_seconds - (time.time_ns() - ended_at) / 1e9
        ids = (int(record.trace_id, 16), int(record.span_id, 16))
        parent = None
        if record.parent_id is not None:
            parent = Context(ids[0], int(record.parent_id, 16), is_sampled=True)
        startup = self._open(pod, ids, parent, record.started)
        startup.ended_at = ended_at
        for span in kept.spans:
            if span.kind == _SERVER:
                is_fine = span.attributes.get("rpc.status_code") == "OK"
                startup.failure = None if is_fine else span.message or "the call before failed"
                self._recall(startup, span.attributes)
        if kept.root is not None or left <= 0:
            startup.root = None
        else:
            # The restart itself may be why nothing has come for a while.
            patience = max(self._settle_seconds, min(left, self._patience(startup)))
            self._settle_in(startup, patience)
        return startup

    def _recall(self, startup: Startup, attributes: Mapping[str, traces.Value]) -> None:
        """Know again what a call of the last daemon made."""
        if "cri_proxy.sandbox.id" in attributes:
            self.ran(startup, str(attributes["cri_proxy.sandbox.id"]))
        if "container.id" in attributes and "k8s.container.name" in attributes:
            attempt = int(str(attributes.get("k8s.container.restart_count", 0)))
            name = str(attributes["k8s.container.name"])
            self.created(startup, str(attributes["container.id"]), name, attempt)

    def _patience(self, startup: Startup) -> float:
        return self._settle_seconds * (1 if startup.failure is None else AFTER_FAILURE)

    def _settle_in(self, startup: Startup, seconds: float) -> None:
        startup.timer = asyncio.get_running_loop().call_later(seconds, self._end, startup)

    def _end(self, startup: Startup) -> None:
        """End the root where the last call ended; twice is no harm."""
        root, startup.root = startup.root, None
        startup.tries.clear()
        if startup.timer is not None:
            startup.timer.cancel()
        if root is None:
            return
        if startup.failure is not None:
            root.fail(startup.failure)
        root.finish(startup.ended_at)
        _tell(startup)


class _Evicting(cachetools.LRUCache[tuple[str, int], Startup]):
    """A bounded memory that ends what it forgets."""

    def __init__(self, size: int, end: Callable[[Startup], None]) -> None:
        super().__init__(size)
        self._end = end

    def popitem(self) -> tuple[tuple[str, int], Startup]:
        key, startup = super().popitem()
        self._end(startup)
        return key, startup


def _tell(startup: Startup) -> None:
    """Tell the log how a startup went; of pods that asked for nothing, only who hunts a fault."""
    pod = startup.pod
    fields = {
        "pod": f"{pod.namespace}/{pod.name}",
        "seconds": (startup.ended_at - startup.started_at) / 1e9,
        "containers": len(startup.containers),
        "trace_id": f"{startup.context.trace_id:032x}",
    }
    if startup.failure is not None:
        tell = _log.warning if pod.is_annotated else _log.debug
        tell("pod did not start", why=startup.failure, **fields)
    else:
        tell = _log.info if pod.is_annotated else _log.debug
        tell("pod started", **fields)


def ids_of(pod: Pod) -> spans.Ids:
    """Return the trace id and the root's span id that follow from the pod and the attempt."""
    digest = hashlib.sha256(f"cri-proxy {traces.ROOT} {pod.uid} {pod.attempt}".encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def _sampled(context: Context | None) -> Context | None:
    return context if context is not None and context.is_sampled else None
