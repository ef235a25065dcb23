"""Traces as they are stored and read: what happened from a pod's sandbox to its containers' start.

A trace is the record of one startup: which pod, and its spans as they ended. The proxy writes it
while the startup goes on, so the root `pod.startup` comes last or, for a startup still under way,
not at all. Times are nanoseconds since 1970, ids are lower-case hexadecimal as in OTLP's JSON.
`telemetry.ring` keeps these values on disk and `cri-proxy trace` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

ROOT: Final = "pod.startup"
"""The name of a trace's root span."""

Value: TypeAlias = "str | bool | int | float | Sequence[str | bool | int | float]"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStartup:
    """The pod and the attempt that a trace is of.

    `span_id` is the root's, `parent_id` that of kubelet's span if it sent a sampled one; `attempt`
    counts the sandboxes that kubelet has made for the pod.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    started: int
    uid: str
    attempt: int
    namespace: str
    name: str
    is_annotated: bool

    @property
    def pod(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """Another span that this one has to do with, of this trace or of another."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpan:
    """One span that has ended.

    `kind` is server, client or internal; `status` ok, error or unset.
    """

    name: str
    span_id: str
    parent_id: str | None
    kind: str
    start: int
    end: int
    status: str = "unset"
    message: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[SpanLink, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """One startup and its spans, by the time of their beginning."""

    startup: StoredStartup
    spans: tuple[StoredSpan, ...]

    @property
    def root(self) -> StoredSpan | None:
        """The startup's own span; None while it is under way. If it ended twice, the last end."""
        found = [span for span in self.spans if span.span_id == self.startup.span_id]
        return found[-1] if found else None

    @property
    def end(self) -> int:
        """When the startup ended, or the last of it that is known."""
        root = self.root
        return root.end if root else max((span.end for span in self.spans), default=0)

    @property
    def seconds(self) -> float:
        """How long the startup took, or how long it is known to have gone on."""
        return max(0.0, (self.end - self.startup.started) / 1e9)


def startup_of(record: Mapping[str, Any]) -> StoredStartup:
    """Return the startup that `asdict` made a record of; raise ValueError for anything else."""
    try:
        return StoredStartup(**record)
    except TypeError as error:
        raise ValueError("not a startup") from error


def span_of(record: Mapping[str, Any]) -> StoredSpan:
    """Return the span of a record made by `record_of`; raise ValueError for anything else."""
    try:
        links = tuple(SpanLink(**link) for link in record.get("links", ()))
        return StoredSpan(**{**record, "links": links})
    except (TypeError, AttributeError) as error:
        raise ValueError("not a span") from error


def record_of(value: StoredStartup | StoredSpan) -> dict[str, Any]:
    """Return `value` as JSON has it."""
    return asdict(value)
