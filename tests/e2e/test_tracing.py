"""One whole startup on a real runtime, as a collector gets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cri_proxy.cri import methods
from hack.testbed import images, kubelet
from hack.testbed.collector import Collector, Span
from tests.e2e.conftest import Node, spec

CREATE = methods.path_of("CreateContainer")[1:]
START = methods.path_of("StartContainer")[1:]
RUN = methods.path_of("RunPodSandbox")[1:]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def node_settings(collector: Collector) -> dict[str, dict[str, Any]]:
    return {"tracing": {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 3}}


def servers(collector: Collector, name: str) -> list[Span]:
    return [span for span in collector.spans(name) if span.kind == "server"]


def test_a_pod_with_a_cold_and_a_warm_environment_is_one_trace(
    node: Node, collector: Collector
) -> None:
    node.push("warm")
    node.push("cold", node.published.package("cold", {"share/cold": b"cold"}))
    assert node.output("acme/warm", "true") == ""
    before = collector.wait("pod.startup")
    with node.pod("acme/cold", {"flox.dev/environment.second": "acme/warm"}) as pod:
        containers = [pod.run(spec("true", name=name)) for name in ("first", "second")]
        assert [each.wait() for each in containers] == [0, 0]

        root = collector.wait("pod.startup", count=2)

    spans = [span for span in collector.spans() if span.trace_id == root.trace_id]
    by_id = {span.span_id: span for span in spans}
    assert before.trace_id != root.trace_id
    assert root.attributes["container.runtime.name"] == "containerd"
    assert [span for span in spans if span.parent_id not in by_id] == [root]
    assert [span.name for span in collector.children(root)] == [RUN, CREATE, START, CREATE, START]
    realized = {
        span.attributes["flox.environment.reference"]: span.attributes["cri_proxy.paths.fetched"]
        for span in spans
        if span.name == "realizer.realize" and span.parent_id in _ids(servers(collector, RUN))
    }
    assert realized == {"acme/cold": 1, "acme/warm": 0}
    assert {each.attributes.get("k8s.container.name") for each in spans if each.name == CREATE} == {
        "first",
        "second",
    }
    starts = [span for span in servers(collector, START) if span.trace_id == root.trace_id]
    assert {each.attributes["container.id"] for each in starts} == {each.id for each in containers}
    assert root.end >= max(each.end for each in starts)


def test_an_ordinary_pod_is_one_trace_too(node: Node, collector: Collector) -> None:
    with node.pods.run_pod("plain") as pod:
        pod.run(kubelet.Spec(image=images.BUSYBOX, command=("true",)))

        root = collector.wait("pod.startup")

    assert [span.name for span in collector.children(root)] == [RUN, CREATE, START]
    assert root.attributes["cri_proxy.pod.annotated"] is False
    assert {len(collector.children(each)) for each in collector.children(root)} == {1}


def test_a_proxy_killed_between_sandbox_and_container_sends_one_trace(
    node: Node, collector: Collector
) -> None:
    node.push("web")
    with node.pod("acme/web") as pod:
        node.proxy.kill()
        node.proxy.start()
        assert pod.run(spec("true")).wait() == 0

        root = collector.wait("pod.startup")

    names = {span.name for span in collector.spans() if span.trace_id == root.trace_id}
    assert {CREATE, START, "realizer.realize"} <= names
    assert len(collector.spans("pod.startup")) == 1


def _ids(spans: list[Span]) -> set[str]:
    return {span.span_id for span in spans}
