"""RuntimeClasses on a runtime with two handlers of its own: each name stands for one."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cri_proxy.cri import api_pb2
from tests.e2e.conftest import ON_BOTH_RUNTIMES, Node, spec

ANNOTATED = {"flox.dev/environment": "acme/web"}


@pytest.fixture
def node_settings() -> dict[str, dict[str, Any]]:
    """Two names of ours, one of them for the runtime's second handler."""
    return {"runtime": {"handlers": {"flox": "", "flox-second": "runc-second"}}}


@pytest.mark.parametrize(("asked", "real"), [("flox", ""), ("flox-second", "runc-second")])
def test_a_pod_runs_under_the_handler_that_its_class_stands_for(
    node: Node, asked: str, real: str
) -> None:
    node.push("web")

    pod = node.pods.run_pod("mapped", ANNOTATED, runtime_handler=asked)

    assert pod.status().runtime_handler == real
    assert pod.run(spec("true")).wait() == 0


def test_a_pod_with_the_runtimes_own_handler_is_unchanged(node: Node) -> None:
    pod = node.pods.run_pod("own", runtime_handler="runc-second")

    assert pod.status().runtime_handler == "runc-second"


def test_an_environment_does_not_need_the_runtime_class(node: Node) -> None:
    node.push("web")

    pod = node.pods.run_pod("own", ANNOTATED, runtime_handler="runc-second")

    assert pod.status().runtime_handler == "runc-second"
    assert pod.run(spec("true")).wait() == 0


def test_an_unknown_handler_is_refused_by_the_runtime(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        node.pods.run_pod("unknown", ANNOTATED, runtime_handler="flox-third")

    assert '"flox-third"' in (refused.value.details() or "")


def test_a_pod_of_a_mapped_class_without_an_environment_is_refused(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        node.pods.run_pod("bare", runtime_handler="flox-second")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "flox-second" in (refused.value.details() or "")


@ON_BOTH_RUNTIMES
def test_status_lists_our_names_where_the_runtime_lists_its_own(node: Node) -> None:
    """As of version 2.0 containerd lists them."""

    def reported(client: Any) -> dict[str, bytes]:
        status = client.call("Status", api_pb2.StatusRequest(), api_pb2.StatusResponse)
        return {each.name: each.features.SerializeToString() for each in status.runtime_handlers}

    with node.containerd.pods() as direct:
        own = reported(direct.client)

    expected = {**own, "flox": own[""], "flox-second": own["runc-second"]} if own else {}
    assert reported(node.pods.client) == expected
