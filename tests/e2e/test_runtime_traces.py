"""A runtime that traces: containerd 2.x, whose own spans hang below ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.cri import methods
from hack.testbed import images, kubelet, waiting
from hack.testbed.binaries import Binaries
from hack.testbed.collector import Collector, Span
from hack.testbed.containerd import Containerd
from hack.testbed.proxy import Proxy

CREATE = methods.path_of("CreateContainer")[1:]
RUN = methods.path_of("RunPodSandbox")[1:]
START = methods.path_of("StartContainer")[1:]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def runtime(newest_binaries: Binaries, collector: Collector) -> Iterator[Containerd]:
    """A containerd with its tracing plugin on, which sends what we have sampled."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "containerd",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with Containerd(binaries=newest_binaries, variables=variables) as found:
        yield found


def test_the_spans_of_the_runtime_are_children_of_ours(
    runtime: Containerd, collector: Collector, tmp_path: Path
) -> None:
    tracing = {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 1}
    with (
        Proxy(tmp_path / "proxy", runtime.socket, {"tracing": tracing}) as proxy,
        runtime.pods(proxy.socket) as pods,
        pods.run_pod("plain") as pod,
    ):
        pod.run(kubelet.Spec(image=images.BUSYBOX, command=("true",)))
        root = collector.wait("pod.startup")
        theirs = [_theirs(collector, root, name) for name in (RUN, CREATE, START)]

    for spans in theirs:
        assert {each.trace_id for each in spans} == {root.trace_id}
        assert {each.kind for each in spans} == {"server"}
        assert {each.service for each in spans} == {"containerd"}
    # The spans of what containerd does in a call are its children: pulling, mounting, its shim.
    assert any(collector.children(each) for spans in theirs for each in spans)


def test_a_runtime_sends_no_spans_of_a_startup_that_is_not_sampled(
    runtime: Containerd, collector: Collector, tmp_path: Path
) -> None:
    tracing = {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 1}
    with Proxy(tmp_path / "proxy", runtime.socket, {"tracing": tracing}) as proxy:
        proxy.configure({"tracing": {"share": 0}})
        proxy.restart()
        with runtime.pods(proxy.socket) as pods, pods.run_pod("unsampled"):
            pass
        proxy.configure({"tracing": {"share": 1}})
        proxy.restart()
        with runtime.pods(proxy.socket) as pods, pods.run_pod("sampled"):
            root = collector.wait("pod.startup")
            _theirs(collector, root, RUN)

    assert root.attributes["k8s.pod.name"] == "sampled"
    assert [each.trace_id for each in collector.spans(RUN) if each.kind == "client"] == [
        root.trace_id
    ]


def _theirs(collector: Collector, root: Span, name: str) -> list[Span]:
    """Return the runtime's spans right below our call of a method, once they have come."""
    (client,) = (
        each
        for each in collector.spans(name)
        if (each.trace_id, each.kind, each.service) == (root.trace_id, "client", "cri-proxy")
    )
    return waiting.until(
        lambda: collector.children(client),
        what=f"a span of the runtime's below {name}",
        explain=lambda: f"there are {[(each.service, each.name) for each in collector.spans()]}",
    )
