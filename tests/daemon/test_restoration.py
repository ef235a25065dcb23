"""Pods restored from checkpoints, through the whole program."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from cri_proxy.cri import api_pb2, methods
from tests.daemon.conftest import Station

RESTORE = methods.path_of("RestorePod")


@pytest.fixture
async def station(station: Station) -> Station:
    """Start the proxy."""
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def restore_request(annotations: dict[str, str], *, handler: str = "") -> bytes:
    """Return a RestorePod with fields and bytes that no version of today knows."""
    request = api_pb2.RestorePodRequest(
        checkpoint_path="/checkpoint",
        config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name="web", namespace="shop"),
            annotations=annotations,
        ),
        runtime_handler=handler,
        options={"b": "1", "a": "2"},
        container_configs=[
            api_pb2.ContainerConfig(
                metadata=api_pb2.ContainerMetadata(name="main"),
                envs=[api_pb2.KeyValue(key="A", value=b"\xff\x00\xfe")],
            )
        ],
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


async def test_a_pod_that_did_not_ask_is_restored_byte_for_byte(station: Station) -> None:
    for given in ({}, {"app": "web"}, {"note": "about flox.dev/environment"}):
        payload = restore_request(given, handler="runsc")

        await station.caller.unary_unary(RESTORE)(payload, timeout=60)

        assert station.runtime.calls.pop().payloads == [payload]


async def test_a_pod_that_did_ask_is_refused_and_the_runtime_not_called(station: Station) -> None:
    cases: list[tuple[dict[str, str], str, str]] = [
        ({"flox.dev/environment": "acme/web"}, "", "acme/web"),
        ({"flox.dev/environment.main": "acme/one"}, "", "acme/one"),
        ({"flox.dev/environment": "acme"}, "", "owner/name"),
        ({}, "flox", "flox.dev/environment"),
    ]
    for given, handler, word in cases:
        payload = restore_request(given, handler=handler)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await station.caller.unary_unary(RESTORE)(payload, timeout=60)

        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert word in (refused.value.details() or "")
    assert station.runtime.calls == []


async def test_the_refusal_names_the_pod(station: Station) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await station.caller.unary_unary(RESTORE)(
            restore_request({"flox.dev/environment": "acme/web"}), timeout=60
        )

    assert "shop/web" in (refused.value.details() or "")


async def test_one_that_cannot_be_decoded_is_refused_if_our_annotation_is_in_it(
    station: Station,
) -> None:
    payload = restore_request({"flox.dev/environment": "acme/web"})
    broken = payload.replace(b"acme/web", b"acme/\xff\xfe\xfd")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await station.caller.unary_unary(RESTORE)(broken, timeout=60)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert station.runtime.calls == []
