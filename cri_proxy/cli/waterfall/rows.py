"""A trace as rows: its tree of spans from top to bottom, with the critical path and notes.

Children follow their parent in the order of their start. A span whose parent is missing (kubelet's
own, or one that was lost in a crash) becomes a child of the startup.

The critical path is what the startup waited for. It is traced backwards from the end: the child
that ended last, then the one that ended last before that began, and so on, recursively. A span that
waited for a realization links to it, and the path continues there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cri_proxy.cli import numbers
from cri_proxy.model import traces
from cri_proxy.model.traces import StoredSpan, StoredTrace

_SERVICE = "runtime.v1."


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a waterfall; `start` and `end` are nanoseconds since the startup began."""

    span: StoredSpan
    depth: int
    label: str
    start: int
    end: int
    is_critical: bool
    note: str

    @property
    def has_failed(self) -> bool:
        """Whether the span is shown as failed."""
        status = self.span.attributes.get("rpc.status_code", "OK")
        return self.span.status == "error" or status != "OK"


def of_trace(trace: StoredTrace) -> list[Row]:
    """Return the rows of a trace, the startup itself first."""
    root = trace.root or _unfinished(trace)
    by_id = {span.span_id: span for span in trace.spans if span.span_id != root.span_id}
    below: defaultdict[str, list[StoredSpan]] = defaultdict(list)
    for span in by_id.values():
        below[str(span.parent_id) if span.parent_id in by_id else root.span_id].append(span)
    critical = _critical(root, by_id, below)
    return [
        Row(
            span,
            depth,
            _label_of(span),
            span.start - root.start,
            span.end - root.start,
            span.span_id in critical,
            _note_of(span),
        )
        for span, depth in _walk(root, below)
    ]


def failure_of(trace: StoredTrace) -> str:
    """Return the error message that a startup ended with, empty if it succeeded."""
    root = trace.root
    if root is None or root.status != "error":
        return ""
    return root.message or "failed"


def state_of(trace: StoredTrace) -> str:
    """Return `in progress` if the startup has not ended, as far as the node knows, or its end."""
    if trace.root is None:
        return "in progress"
    return "failed" if failure_of(trace) else "started"


def _walk(
    root: StoredSpan, below: Mapping[str, Sequence[StoredSpan]]
) -> Iterator[tuple[StoredSpan, int]]:
    """Yield every span with its depth, from top to bottom; cycles of parents are left out."""
    left = [(root, 0)]
    while left:
        span, depth = left.pop()
        yield span, depth
        children = sorted(below.get(span.span_id, ()), key=lambda each: each.start)
        left += [(child, depth + 1) for child in reversed(children)]


def _critical(
    root: StoredSpan, by_id: Mapping[str, StoredSpan], below: Mapping[str, Sequence[StoredSpan]]
) -> set[str]:
    """Return the ids of the spans that the end of the startup waited for."""
    found: set[str] = set()
    left = [(root, root.end)]
    while left:
        span, until = left.pop()
        if span.span_id in found:
            continue
        found.add(span.span_id)
        linked = [by_id[link.span_id] for link in span.links if link.span_id in by_id]
        # A repeated call links to the previous one, for which it did not wait.
        working = [each for each in linked if each.kind == span.kind == "internal"]
        waits = [*below.get(span.span_id, ()), *working]
        for child in sorted(waits, key=lambda each: each.end, reverse=True):
            begun = max(child.start, span.start)
            if begun < until and child.end > span.start and child.end <= until:
                left.append((child, min(child.end, until)))
                until = begun
    return found


def _unfinished(trace: StoredTrace) -> StoredSpan:
    """Return the root span of a startup in progress, as if it ended now."""
    startup = trace.startup
    return StoredSpan(
        name=traces.ROOT,
        span_id=startup.span_id,
        parent_id=startup.parent_id,
        kind="internal",
        start=startup.started,
        end=max(trace.end, startup.started + 1),
    )


def _label_of(span: StoredSpan) -> str:
    """Return the label of a span."""
    if span.kind == "internal":
        return span.name
    method = span.name.removeprefix(_SERVICE).rpartition("/")[2]
    container = span.attributes.get("k8s.container.name")
    if span.kind == "client":
        return f"{method} → runtime"
    return f"{method} {container}" if container else method


def _note_of(span: StoredSpan) -> str:
    """Return the details shown beside a span: environment, store paths, retries, errors."""
    attributes = span.attributes
    notes: list[str] = []
    if reference := attributes.get("flox.environment.generation") or attributes.get(
        "flox.environment.reference"
    ):
        notes.append(str(reference))
    if "cri_proxy.paths.fetched" in attributes:
        notes.append(_paths_of(attributes))
    if span.name == "store.fetch_path":
        path = str(attributes.get("cri_proxy.path", ""))
        notes.append(f"{path.partition('-')[2] or path}, {_size(attributes, 'cri_proxy.bytes')}")
    if "cri_proxy.rest.paths" in attributes:
        count = int(str(attributes["cri_proxy.rest.paths"]))
        notes.append(
            f"{numbers.counted(count, 'smaller path')}, {_size(attributes, 'cri_proxy.rest.bytes')}"
        )
    if attributes.get("flox.environment.stale"):
        notes.append("last known generation")
    if "cri_proxy.try" in attributes:
        notes.append(f"try {attributes['cri_proxy.try']}")
    status = attributes.get("rpc.status_code", "OK")
    if status != "OK":
        notes.append(str(status))
    message = span.message or str(attributes.get("cri_proxy.status.message", ""))
    if message and span.kind != "client":
        notes.append(message)
    return ", ".join(notes)


def _paths_of(attributes: Mapping[str, traces.Value]) -> str:
    fetched = int(str(attributes["cri_proxy.paths.fetched"]))
    count = int(str(attributes.get("cri_proxy.paths", 0)))
    size = _size(attributes, "cri_proxy.bytes")
    if not fetched:
        return f"already present: {numbers.counted(count, 'path')}, {size}"
    return f"fetched {fetched} of {numbers.counted(count, 'path')}, {size} in total"


def _size(attributes: Mapping[str, traces.Value], name: str) -> str:
    return numbers.size(float(str(attributes.get(name, 0))))
