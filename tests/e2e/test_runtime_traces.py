"""A runtime that traces: containerd 2.x, whose own spans hang below ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.cri import methods
from hack.testbed import containerd, images, kubelet, newer
from hack.testbed.collector import Collector, Span
from hack.testbed.proxy import Proxy

CREATE = methods.path_of("CreateContainer")[1:]
RUN = methods.path_of("RunPodSandbox")[1:]
START = methods.path_of("StartContainer")[1:]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def runtime(collector: Collector) -> Iterator[containerd.Containerd]:
    """A containerd with its tracing plugin on, which sends what we have sampled."""
    binaries = newer.binaries()
    if binaries is None:
        pytest.skip(newer.MISSING)
    if missing := containerd.lacks(binaries):
        pytest.skip(f"this machine lacks {', '.join(missing)}: run hack/prerequisites.sh test")
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "containerd",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with containerd.Containerd(binaries=binaries, variables=variables) as found:
        yield found


def test_the_spans_of_the_runtime_hang_below_ours(
    runtime: containerd.Containerd, collector: Collector, tmp_path: Path
) -> None:
    tracing = {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 1}
    with (
        Proxy(tmp_path / "proxy", runtime.socket, {"tracing": tracing}) as proxy,
        runtime.pods(proxy.socket) as pods,
        pods.run_pod("plain") as pod,
    ):
        pod.run(kubelet.Spec(image=images.BUSYBOX, command=("true",)))
        root = collector.wait("pod.startup")
        for name in (RUN, CREATE, START):
            client = _one(collector, root, name, "client")
            # containerd calls its spans as gRPC's instrumentation for Go does: as we call ours.
            collector.until(lambda client=client: collector.children(client), what=name)

    for name in (RUN, CREATE, START):
        client = _one(collector, root, name, "client")
        theirs = collector.children(client)
        assert {each.trace_id for each in theirs} == {root.trace_id}
        assert {each.kind for each in theirs} == {"server"}
        assert {each.service for each in theirs} == {"containerd"}
        assert collector.children(theirs[0])


def _one(collector: Collector, root: Span, name: str, kind: str) -> Span:
    (found,) = (
        each
        for each in collector.spans(name)
        if each.trace_id == root.trace_id and each.kind == kind and each.service == "cri-proxy"
    )
    return found
