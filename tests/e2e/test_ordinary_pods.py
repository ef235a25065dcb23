"""Pods that did not ask, on a real runtime: what reaches it is what kubelet sent, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri_proxy.cri import api_pb2
from hack.testbed import images, kubelet
from hack.testbed.containerd import Containerd
from hack.testbed.pods import Pods
from hack.testbed.proxy import Proxy
from hack.testbed.tee import Tee
from tests.e2e.conftest import spec


@pytest.fixture
def tee(tmp_path: Path, containerd: Containerd) -> Iterator[Tee]:
    with Tee(tmp_path / "tee.sock", containerd.socket) as tee:
        yield tee


@pytest.fixture
def through(tmp_path: Path, containerd: Containerd, tee: Tee) -> Iterator[Pods]:
    """A kubelet's hands on a proxy that is in front of the tee, in front of the runtime."""
    offline = {"floxhub": {"url": "http://127.0.0.1:9"}}
    with (
        Proxy(tmp_path / "proxy", tee.place, offline) as proxy,
        containerd.pods(proxy.socket) as pods,
    ):
        yield pods


def test_a_container_without_annotation_reaches_the_runtime_byte_for_byte(
    through: Pods, tee: Tee
) -> None:
    pod = through.run_pod("plain", {"note": "nothing of ours"})
    wanted = spec(
        "true", image=images.BUSYBOX, envs=[("B", b"\xff\x00\xfe"), ("A", b""), ("B", b"2")]
    )
    kubelet.write_container_files(pod.files, wanted)
    status = through.client.call(
        "ImageStatus",
        api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=images.BUSYBOX)),
        api_pb2.ImageStatusResponse,
    )
    config = kubelet.container_config(pod.files, pod.config, wanted, image_id=status.image.id)
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config
    ).SerializeToString()
    payload = request + b"\xfa\x3f\x03new"  # and a field that no version knows
    channel = grpc.insecure_channel(f"unix:{through.client.socket}")

    with channel:
        answer = channel.unary_unary("/runtime.v1.RuntimeService/CreateContainer")(
            payload, timeout=60
        )

    assert api_pb2.CreateContainerResponse.FromString(answer).container_id
    assert payload in tee.sent()


def test_an_unknown_method_reaches_the_runtime_with_its_metadata_and_gets_its_answer(
    through: Pods, tee: Tee, containerd: Containerd
) -> None:
    payload = b"\x0a\x10from the future\xff"
    answers = []
    for place in (containerd.socket, through.client.socket):
        with grpc.insecure_channel(f"unix:{place}") as channel:
            future = channel.unary_unary("/runtime.v9.RuntimeService/Future")
            with pytest.raises(grpc.RpcError) as refused:
                future(payload, timeout=60, metadata=(("x-token-bin", b"\x01\x02\xff"),))
            answers.append((refused.value.code(), refused.value.details()))

    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.UNIMPLEMENTED


def test_an_ordinary_pod_runs_from_start_to_end_while_floxhub_is_unavailable(through: Pods) -> None:
    pod = through.run_pod("plain")
    container = pod.run(spec("sh", "-c", "echo out; echo err >&2; exit 3", image=images.BUSYBOX))

    assert container.wait() == 3
    assert container.logs().stdout == b"out\n"
    assert container.logs().stderr == b"err\n"
    container.remove()
    pod.remove()
