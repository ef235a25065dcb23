"""Pod startups: which trace a call belongs to, from a pod's sandbox to its last container's start.

A startup is identified by the pod's uid and the attempt of its sandbox. Its first call decides
which trace it is part of:

    kubelet's context is sampled    kubelet's trace; `pod.startup` is a child of kubelet's span
    anything else                   a trace of its own, whose id is derived from uid and attempt

The span id of `pod.startup` is derived from uid and attempt in both cases, so a daemon that takes
over in the middle continues the same trace; it reads the rest from the ring (`resume`).

No call says how many containers a pod has. A startup ends when it has been quiet for a while:
`settle_seconds` after a call that succeeded, ten times that after a failure, which kubelet retries;
at once when the sandbox is stopped. Its root then ends when its last call ended. A container that
is first created later still (after a long init container) is traced below the same root. A restart
of a container after that is not part of a startup.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Self

import cachetools

from cri_proxy.model import traces
from cri_proxy.telemetry import logs, spans
from cri_proxy.telemetry.spanqueue import SpanQueue
from cri_proxy.telemetry.spans import Context, Span, Value

_log = logs.of(__name__)
AFTER_FAILURE: Final = 10
_REMEMBERED: Final = 4096
_RECALL_SECONDS: Final = 30 * 86400.0
_CONTAINERS_REMEMBERED: Final = 16384


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of a call, by its sandbox's metadata."""

    uid: str
    attempt: int
    namespace: str
    name: str
    is_annotated: bool

    @property
    def key(self) -> tuple[str, int]:
        """The identity of its startup."""
        return (self.uid, self.attempt)

    @property
    def attributes(self) -> dict[str, Value]:
        """The attributes that every span of its calls has."""
        return {
            "k8s.pod.uid": self.uid,
            "k8s.pod.name": self.name,
            "k8s.namespace.name": self.namespace,
        }


@dataclass(eq=False, slots=True)
class CallGroup:
    """Calls below one root, which ends when there have been none for a while.

    `root` is None once it has ended; `context` still names it. `ended_at` and `failure` are those
    of the call that ended last.
    """

    context: Context
    root: Span | None
    calls: int = 0
    ended_at: int = 0
    failure: str | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether its calls still extend it."""
        return self.root is not None

    def enter(self) -> None:
        """Note that a call begins; the root does not end before it."""
        self.calls += 1
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def leave(self, failure: str | None) -> bool:
        """Note that a call has ended; return whether the root may end now."""
        self.calls -= 1
        self.ended_at = time.time_ns()
        self.failure = failure
        return not self.calls and self.is_open

    def settle_in(self, seconds: float, end: Callable[[Self], None]) -> None:
        """Call `end` after some time without a call."""
        self.timer = asyncio.get_running_loop().call_later(seconds, end, self)

    def end(self) -> bool:
        """End the root when the last call ended; return whether it was open."""
        root, self.root = self.root, None
        if self.timer is not None:
            self.timer.cancel()
        if root is None:
            return False
        if self.failure is not None:
            root.fail(self.failure)
        root.finish(self.ended_at or None)
        return True


@dataclass(eq=False, slots=True, kw_only=True)
class Startup(CallGroup):
    """One startup; `containers` has the name and attempt of each container by its id."""

    pod: Pod
    parent: Context | None
    started_at: int
    tries: dict[str, tuple[int, Context]] = field(default_factory=dict)
    containers: dict[str, tuple[str, int]] = field(default_factory=dict)

    def tried(self, what: str, context: Context) -> tuple[int, Context | None]:
        """Count a call that may be a retry; return its number, and the span of the one before."""
        count, before = self.tries.get(what, (0, None))
        self.tries[what] = (count + 1, context)
        return count + 1, before


class Startups:
    """All startups that a daemon sees; belongs to its event loop."""

    def __init__(self, *, queue: SpanQueue | None, settle_seconds: float) -> None:
        self.facts: Final[dict[str, Value]] = {}
        """Attributes for every root, such as the runtime's version."""
        self._queue = queue if queue is not None and queue.is_keeping else None
        self._settle_seconds = settle_seconds
        self._startups = _Evicting(_REMEMBERED, self._end)
        self._containers = cachetools.LRUCache[str, Startup](_CONTAINERS_REMEMBERED)
        self._sandboxes = cachetools.LRUCache[str, Startup](_REMEMBERED)

    def begin(self, pod: Pod, kubelets: Context | None) -> Startup:
        """Return the open startup of `pod`, or begin one."""
        found = self.find(pod)
        if found is not None and found.is_open:
            return found
        trace_id, span_id = ids_of(pod)
        start, parent = time.time_ns(), None
        if kubelets is not None and kubelets.is_sampled:
            parent, trace_id = kubelets, kubelets.trace_id
        if self._queue is not None:
            self._queue.begin(
                traces.StoredStartup(
                    trace_id=f"{trace_id:032x}",
                    span_id=f"{span_id:016x}",
                    parent_id=None if parent is None else f"{parent.span_id:016x}",
                    started=start,
                    **asdict(pod),
                )
            )
        return self._open(pod, (trace_id, span_id), parent, start)

    def find(self, pod: Pod) -> Startup | None:
        """Return the startup of `pod` if it is known, ended or not."""
        return self._startups.get(pod.key)

    def of_container(self, container_id: str) -> Startup | None:
        """Return the startup that the container was created in."""
        return self._containers.get(container_id)

    def of_sandbox(self, sandbox_id: str) -> Startup | None:
        """Return the startup that the sandbox was created in."""
        return self._sandboxes.get(sandbox_id)

    def created(self, startup: Startup, container_id: str, name: str, attempt: int) -> None:
        """Associate a container's id with the startup."""
        startup.containers[container_id] = (name, attempt)
        self._containers[container_id] = startup

    def ran(self, startup: Startup, sandbox_id: str) -> None:
        """Associate the sandbox's id with the startup."""
        self._sandboxes[sandbox_id] = startup

    def leave(self, startup: Startup, failure: str | None) -> None:
        """Note that a call has ended, successfully or with the message `failure`."""
        if startup.leave(failure):
            startup.settle_in(self._patience(startup), self._end)

    def stop(self, sandbox_id: str) -> None:
        """End the startup of a sandbox that is being stopped, if it is still open."""
        startup = self._sandboxes.get(sandbox_id)
        if startup is None:
            return
        if startup.calls:
            startup.ended_at = time.time_ns()
            startup.failure = "the sandbox was stopped while the pod was starting"
        self._end(startup)

    def resume(self) -> int:
        """Load the startups of the last daemon; return how many of them are continued."""
        if self._queue is None:
            return 0
        return sum(self._resume(kept).is_open for kept in self._queue.recent(_RECALL_SECONDS))

    def close(self) -> None:
        """Leave open startups to the next daemon; end them where nothing is kept."""
        for startup in list(self._startups.values()):
            if startup.timer is not None:
                startup.timer.cancel()
            if self._queue is None:
                self._end(startup)

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
                **self.facts,
            },
        )
        startup = Startup(
            root.context, root, ended_at=start, pod=pod, parent=parent, started_at=start
        )
        self._startups[pod.key] = startup
        return startup

    def _resume(self, kept: traces.StoredTrace) -> Startup:
        """Restore a startup of the last daemon, and continue it if it had not ended."""
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
            if span.kind == "server":
                is_fine = span.attributes.get("rpc.status_code") == "OK"
                startup.failure = None if is_fine else span.message or "the call before failed"
                self._recall(startup, span.attributes)
        if kept.root is not None or left <= 0:
            startup.root = None
        else:
            # The restart itself may be why there were no calls for a while.
            patience = max(self._settle_seconds, min(left, self._patience(startup)))
            startup.settle_in(patience, self._end)
        return startup

    def _recall(self, startup: Startup, attributes: Mapping[str, traces.Value]) -> None:
        """Restore the ids of what a call of the last daemon created."""
        if "cri_proxy.sandbox.id" in attributes:
            self.ran(startup, str(attributes["cri_proxy.sandbox.id"]))
        if "container.id" in attributes and "k8s.container.name" in attributes:
            attempt = int(str(attributes.get("k8s.container.restart_count", 0)))
            name = str(attributes["k8s.container.name"])
            self.created(startup, str(attributes["container.id"]), name, attempt)

    def _patience(self, startup: Startup) -> float:
        return self._settle_seconds * (1 if startup.failure is None else AFTER_FAILURE)

    def _end(self, startup: Startup) -> None:
        """End the startup and log how it went; calling it twice is harmless.

        Pods without our annotation are logged at debug level only.
        """
        startup.tries.clear()
        if not startup.end():
            return
        pod = startup.pod
        fields = {
            "pod": f"{pod.namespace}/{pod.name}",
            "seconds": (startup.ended_at - startup.started_at) / 1e9,
            "containers": len(startup.containers),
            "trace_id": f"{startup.context.trace_id:032x}",
        }
        if startup.failure is not None:
            write = _log.warning if pod.is_annotated else _log.debug
            write("pod did not start", why=startup.failure, **fields)
        else:
            write = _log.info if pod.is_annotated else _log.debug
            write("pod started", **fields)


class _Evicting(cachetools.LRUCache[tuple[str, int], Startup]):
    """A bounded cache that ends the startups that it evicts."""

    def __init__(self, size: int, end: Callable[[Startup], None]) -> None:
        super().__init__(size)
        self._end = end

    def popitem(self) -> tuple[tuple[str, int], Startup]:
        key, startup = super().popitem()
        self._end(startup)
        return key, startup


def ids_of(pod: Pod) -> spans.Ids:
    """Derive the trace id and the root's span id from the pod's uid and the attempt."""
    digest = hashlib.sha256(f"cri-proxy {traces.ROOT} {pod.uid} {pod.attempt}".encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")
