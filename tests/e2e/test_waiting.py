"""Realizations that take longer than kubelet waits, and many pods that want the same one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cri_proxy.cri import api_pb2
from hack.testbed import cri, kubelet, waiting
from hack.testbed.pods import Pod
from hack.testbed.web import Hang
from tests.e2e.conftest import Node, spec


def create(node: Node, pod: Pod, *, seconds: float) -> str:
    """Create a container as kubelet does, with a deadline; return its id."""
    wanted = spec("true")
    kubelet.write_container_files(pod.files, wanted)
    image_id = pod.image_id(wanted.image)
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id=pod.id,
        config=kubelet.container_config(pod.files, pod.config, wanted, image_id=image_id),
        sandbox_config=pod.config,
    )
    answer = node.pods.client.call(
        "CreateContainer", request, api_pb2.CreateContainerResponse, seconds=seconds
    )
    return answer.container_id


def test_a_realization_longer_than_the_deadline_continues_and_the_retry_joins_it(
    node: Node,
) -> None:
    node.proxy.configure({"pods": {"deadline_margin_seconds": 4}})
    node.proxy.restart()
    node.push("web")
    archive = node.published.publisher.narinfo(node.published.tools.path).url
    hang = Hang(1000)
    node.cache.fail(f"*{archive}", hang, times=1)
    pod = node.pod("acme/web")
    waiting.until(lambda: node.cache.count(f"*{archive}"), what="the download to begin")

    with pytest.raises(grpc.RpcError) as late:
        create(node, pod, seconds=6)

    assert late.value.code() is grpc.StatusCode.UNAVAILABLE
    details = late.value.details() or ""
    assert "acme/web is not on this node yet" in details
    assert "paths" in details
    hang.released.set()
    assert create(node, pod, seconds=cri.UNARY_SECONDS)
    assert node.cache.count(f"*{archive}") == 1


def test_a_caller_that_cancels_does_not_stop_the_realization(node: Node) -> None:
    node.push("web")
    archive = node.published.publisher.narinfo(node.published.tools.path).url
    hang = Hang(1000)
    node.cache.fail(f"*{archive}", hang, times=1)
    pod = node.pod("acme/web")
    waiting.until(lambda: node.cache.count(f"*{archive}"), what="the download to begin")

    with pytest.raises(grpc.RpcError):
        create(node, pod, seconds=0.5)
    hang.released.set()

    assert create(node, pod, seconds=cri.UNARY_SECONDS)
    assert node.cache.count(f"*{archive}") == 1


def test_ten_pods_at_once_fetch_each_path_once(node: Node) -> None:
    extra = node.published.package("extra", {"share/extra": b"extra"})
    node.push("web", extra)

    with ThreadPoolExecutor(10) as threads:
        outputs = list(
            threads.map(lambda _: node.output("acme/web", "cat", "/proc/1/comm"), range(10))
        )

    assert outputs == ["cat\n"] * 10
    for package in (node.published.tools, extra):
        assert node.cache.count(f"*{node.published.publisher.narinfo(package.path).url}") == 1


def test_an_environment_on_the_node_needs_no_request_to_the_cache(node: Node) -> None:
    node.push("web")
    node.output("acme/web", "true")
    node.cache.forget()

    node.output("acme/web", "true")

    assert node.cache.count() == 0
