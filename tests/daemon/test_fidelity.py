"""Pods without an environment: calls pass through the whole program byte for byte."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, methods
from tests.daemon.conftest import Station

CREATE = methods.path_of("CreateContainer")
RUN = methods.path_of("RunPodSandbox")


@pytest.fixture
async def station(station: Station) -> Station:
    """Start the proxy."""
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def create_request(annotations: dict[str, str]) -> bytes:
    """Return a CreateContainer with fields and bytes that no version of today knows."""
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main"),
            envs=[api_pb2.KeyValue(key="A", value=b"\xff\x00\xfe")],
            annotations={"b": "1", "a": "2"},
        ),
        sandbox_config=api_pb2.PodSandboxConfig(annotations=annotations),
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


async def forwarded(station: Station, path: str, payload: bytes) -> bytes:
    """Return what the runtime received for one unary call of `payload`."""
    await station.caller.unary_unary(path)(payload, timeout=60)
    return (await station.runtime.called(path)).payloads[0]


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"app": "web"},
        {"flox.dev/environment": "acme/web", "flox.dev/skip-containers": "main"},
        {"flox.dev/environment": "acme/web", "flox.dev/environment.main": ""},
        {"flox.dev/environment.other": "acme/web"},
        {"note": "about flox.dev/environment"},
    ],
    ids=["none", "others", "skipped", "empty for the container", "another container's", "in text"],
)
async def test_a_container_that_did_not_ask_is_created_byte_for_byte(
    station: Station, annotations: dict[str, str]
) -> None:
    payload = create_request(annotations)

    assert await forwarded(station, CREATE, payload) == payload


async def test_a_container_that_cannot_be_decoded_passes_if_it_does_not_concern_us(
    station: Station,
) -> None:
    payload = b"\x0a\xff\xff\xff not protobuf at all"

    assert await forwarded(station, CREATE, payload) == payload


async def test_a_sandbox_that_did_not_ask_passes_byte_for_byte(station: Station) -> None:
    payload = (
        api_pb2.RunPodSandboxRequest(
            runtime_handler="runsc",
            config=api_pb2.PodSandboxConfig(annotations={"z": "1", "a": ""}),
        ).SerializeToString()
        + b"\xfa\x3f\x03new"
    )

    assert await forwarded(station, RUN, payload) == payload


async def test_an_unknown_method_passes_with_its_unknown_metadata(station: Station) -> None:
    path = "/runtime.v9.Future/Method"
    metadata = (("x-unknown", "1"), ("x-unknown", "2"), ("x-odd-bin", b"\x00\xff"))

    answer = await station.caller.unary_unary(path)(b"\x00\xffpayload", metadata=metadata)

    call = await station.runtime.called(path)
    assert call.payloads == [b"\x00\xffpayload"]
    assert answer == b"\x00\xffpayload"
    assert call.values_of("x-unknown") == ["1", "2"]
    assert call.values_of("x-odd-bin") == [b"\x00\xff"]


async def test_the_runtimes_refusal_of_a_container_passes_untouched(station: Station) -> None:
    details = b"\x08\x02details\xff"
    station.runtime.fail(
        CREATE,
        grpc.StatusCode.ALREADY_EXISTS,
        "name é is reserved\nfor another",
        trailers=(("grpc-status-details-bin", details),),
    )

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await station.caller.unary_unary(CREATE)(create_request({}), timeout=60)

    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert refused.value.details() == "name é is reserved\nfor another"
    assert dict(refused.value.trailing_metadata())["grpc-status-details-bin"] == details


@pytest.mark.parametrize("path", [methods.path_of("Exec"), methods.path_of("ExecSync")])
async def test_an_exec_in_an_ordinary_container_passes_byte_for_byte(
    station: Station, path: str
) -> None:
    station.runtime.answer(
        methods.path_of("ContainerStatus"),
        api_pb2.ContainerStatusResponse(status=api_pb2.ContainerStatus(id="c")),
    )
    payload = (
        api_pb2.ExecRequest(container_id="c", cmd=["a", "b"]).SerializeToString()
        + b"\xfa\x3f\x03new"
    )

    assert await forwarded(station, path, payload) == payload


async def test_an_exec_in_a_container_that_is_gone_is_answered_by_the_runtime(
    station: Station,
) -> None:
    path = methods.path_of("ExecSync")
    status = methods.path_of("ContainerStatus")
    station.runtime.fail(status, grpc.StatusCode.NOT_FOUND, "no such container")
    station.runtime.fail(path, grpc.StatusCode.NOT_FOUND, "the runtime's own words")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await station.caller.unary_unary(path)(
            api_pb2.ExecSyncRequest(container_id="c").SerializeToString(), timeout=60
        )

    assert refused.value.details() == "the runtime's own words"
