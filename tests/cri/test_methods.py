"""Methods: the table says what the CRI has."""

from __future__ import annotations

import pytest

from cri_proxy.cri import api_pb2, methods


def test_table_has_every_method_of_both_services() -> None:
    """As of k8s.io/cri-api v0.37: 37 methods for sandboxes and containers, 6 for images."""
    services = [path.split("/")[1] for path in methods.ALL]

    assert services.count("runtime.v1.RuntimeService") == 37
    assert services.count("runtime.v1.ImageService") == 6
    assert len(methods.ALL) == 43


def test_methods_that_stream_are_told_from_those_that_do_not() -> None:
    assert {path.rpartition("/")[2] for path in methods.STREAMING} == {
        "GetContainerEvents",
        "StreamContainers",
        "StreamContainerStats",
        "StreamImages",
        "StreamPodSandboxes",
        "StreamPodSandboxMetrics",
        "StreamPodSandboxStats",
    }
    assert methods.ALL.keys() == methods.UNARY | methods.STREAMING
    assert not methods.UNARY & methods.STREAMING


def test_method_has_the_classes_of_its_messages() -> None:
    method = methods.ALL["/runtime.v1.RuntimeService/CreateContainer"]

    assert method.request is api_pb2.CreateContainerRequest
    assert method.response is api_pb2.CreateContainerResponse
    assert not method.is_streaming


def test_path_is_found_by_the_methods_name_in_either_service() -> None:
    assert methods.path_of("CreateContainer") == "/runtime.v1.RuntimeService/CreateContainer"
    assert methods.path_of("PullImage") == "/runtime.v1.ImageService/PullImage"
    assert len({methods.path_of(path.rpartition("/")[2]) for path in methods.ALL}) == 43


def test_name_that_the_cri_lacks_is_no_method() -> None:
    with pytest.raises(KeyError):
        methods.path_of("TravelBack")
