"""Recorded startups as the daemon stores them on disk, for tests of the programs that show them.

`startup` returns the spans of a pod whose environment had to be fetched, and whose first
CreateContainer came too early. `write` writes startups to the place where the daemon does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cri_proxy.model import traces
from cri_proxy.model.traces import (
    SpanLink,
    StoredSpan,
    StoredStartup,
    StoredTrace,
)

MILLISECOND: Final = 1_000_000
_RPC: Final = "runtime.v1.RuntimeService"


def startup(
    number: int = 1, *, name: str = "web", is_over: bool = True, failure: str = ""
) -> StoredTrace:
    """Return a startup that began `number` seconds after a fixed time."""
    began = 1_795_396_000_000_000_000 + number * 1_000 * MILLISECOND
    trace_id, root = f"{number:032x}", f"{number:016x}"

    def span(
        number: int, parent: int | None, name: str, start: int, end: int, **parts: Any
    ) -> StoredSpan:
        return StoredSpan(
            name=name,
            span_id=f"{number:016x}" if number else root,
            parent_id=None if parent is None else f"{parent:016x}" if parent else root,
            kind=parts.pop("kind", "internal"),
            start=began + start * MILLISECOND,
            end=began + end * MILLISECOND,
            status=parts.pop("status", "unset"),
            message=parts.pop("message", ""),
            links=parts.pop("links", ()),
            attributes=parts.pop("attributes", {}),
        )

    def call(number: int, name: str, start: int, end: int, **parts: Any) -> list[StoredSpan]:
        attributes = {"rpc.status_code": "OK", "k8s.pod.name": name, **parts.pop("attributes", {})}
        is_fine = attributes["rpc.status_code"] == "OK"
        server = span(
            1000 + number, 0, f"{_RPC}/{name}", start, end, kind="server",
            attributes=attributes, **parts,
        )  # fmt: skip
        client = span(
            2000 + number, 1000 + number, f"{_RPC}/{name}", max(start, end - 80), end,
            kind="client", attributes=attributes,
        )  # fmt: skip
        return [server, client] if is_fine else [server]

    main = {"k8s.container.name": "main", "k8s.container.restart_count": 0}
    late = {"rpc.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"}
    environment = {"flox.environment.reference": "acme/web"}
    link = SpanLink(trace_id=trace_id, span_id=f"{3001:016x}")
    spans = [
        *call(1, "RunPodSandbox", 0, 400),
        span(3001, 1001, "realizer.realize", 5, 3000, attributes={
            **environment, "flox.environment.generation": "acme/web:7", "cri_proxy.paths": 300,
            "cri_proxy.paths.fetched": 120, "cri_proxy.bytes": 1_200_000_000,
        }),
        span(3002, 3001, "floxhub.resolve", 5, 150, attributes=environment),
        span(3003, 3001, "store.fetch", 160, 2700, attributes={
            **environment, "cri_proxy.rest.paths": 118, "cri_proxy.rest.bytes": 90_000_000,
            "cri_proxy.rest.seconds": 4.2,
        }),
        span(3004, 3003, "store.survey", 160, 600),
        span(3005, 3003, "store.fetch_path", 300, 2690, attributes={
            "cri_proxy.path": "7ik8057hajl6vq9j40h3jracxjn0bb5x-python3-3.12",
            "cri_proxy.bytes": 180_000_000,
        }),
        span(3006, 3005, "store.unpack", 300, 2600),
        span(3007, 3001, "realizer.assemble", 2700, 3000, attributes=environment),
        *call(2, "CreateContainer", 450, 1450, attributes={**main, **late}, status="error",
              message="environment acme/web is not on this node yet: fetching 80/300 paths"),
        span(3008, 1002, "realizer.wait", 455, 1448, status="error", links=(link,),
             attributes=environment),
        *call(3, "CreateContainer", 2500, 3100, attributes={**main, "cri_proxy.try": 2},
              links=(SpanLink(trace_id=trace_id, span_id=f"{1002:016x}"),)),
        span(3009, 1003, "realizer.wait", 2505, 3002, links=(link,), attributes=environment),
        *call(4, "StartContainer", 3110, 3300, attributes=main),
    ]  # fmt: skip
    if is_over:
        status = "error" if failure else "unset"
        spans.append(span(0, None, traces.ROOT, 0, 3300, status=status, message=failure))
    return StoredTrace(
        StoredStartup(
            trace_id=trace_id,
            span_id=root,
            parent_id=None,
            started=began,
            uid=f"00000000-0000-4000-8000-{number:012x}",
            attempt=0,
            namespace="shop",
            name=name,
            is_annotated=True,
        ),
        tuple(sorted(spans, key=lambda each: (each.start, -each.end))),
    )


def write(root: Path, found: Sequence[StoredTrace]) -> None:
    """Write startups below the root of a store."""
    directory = root / "traces"
    directory.mkdir(parents=True)
    for trace in found:
        records: list[dict[str, Any]] = [{"startup": traces.record_of(trace.startup)}]
        records += [{"span": traces.record_of(span)} for span in trace.spans]
        name = f"{trace.startup.started // MILLISECOND}-{trace.startup.trace_id}.jsonl"
        (directory / name).write_text("".join(f"\n{json.dumps(record)}" for record in records))
