"""Handlers by other names: each call, each direction."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from google.protobuf.message import Message

from cri_proxy.containerd.images import Images
from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import handlers, pulls
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.relays import Relays

STATUS = methods.path_of("Status")
NEW = b"\xfa\x3f\x03new"
MAPPING = {"flox": "", "flox-gvisor": "runsc"}


@pytest.fixture
async def caller(runtime: FakeRuntime, relays: Relays) -> AsyncIterator[grpc.aio.Channel]:
    """Kubelet's channel, in front of the interceptors with the mapping."""
    known = handlers.Handlers(MAPPING)
    channel = channels.dial(runtime.socket)
    interceptors = {
        **handlers.interceptors_of(known),
        "PullImage": pulls.PullImage([], Runtime(channel), Images(channel), known),
    }
    relay = await relays.start({methods.path_of(name): each for name, each in interceptors.items()})
    yield relay.caller
    await channel.close()


def image_requests(handler: str) -> dict[str, Message]:
    """Return each call that names an image, with one pulled for `handler`."""
    image = api_pb2.ImageSpec(image="busybox", annotations={"a": "1"}, runtime_handler=handler)
    return {
        "PullImage": api_pb2.PullImageRequest(image=image),
        "ImageStatus": api_pb2.ImageStatusRequest(image=image, verbose=True),
        "RemoveImage": api_pb2.RemoveImageRequest(image=image),
        "ListImages": api_pb2.ListImagesRequest(filter=api_pb2.ImageFilter(image=image)),
    }


async def forwarded(
    caller: grpc.aio.Channel, runtime: FakeRuntime, method: str, payload: bytes
) -> bytes:
    """Return what the runtime received for one unary call of `payload`."""
    path = methods.path_of(method)
    await caller.unary_unary(path)(payload, timeout=60)
    return (await runtime.called(path)).payloads[0]


@pytest.mark.parametrize("method", image_requests("x"))
@pytest.mark.parametrize(("asked", "real"), MAPPING.items())
async def test_a_mapped_handler_of_an_image_becomes_the_runtimes_own(
    caller: grpc.aio.Channel, runtime: FakeRuntime, method: str, asked: str, real: str
) -> None:
    payload = image_requests(asked)[method].SerializeToString() + NEW

    seen = await forwarded(caller, runtime, method, payload)

    assert seen == image_requests(real)[method].SerializeToString() + NEW


@pytest.mark.parametrize("method", image_requests("x"))
@pytest.mark.parametrize("handler", ["", "runsc", "flox-other"])
async def test_any_other_handler_of_an_image_passes_byte_for_byte(
    caller: grpc.aio.Channel, runtime: FakeRuntime, method: str, handler: str
) -> None:
    payload = image_requests(handler)[method].SerializeToString() + NEW

    assert await forwarded(caller, runtime, method, payload) == payload


@pytest.mark.parametrize("method", image_requests("x"))
async def test_what_cannot_be_decoded_passes(
    caller: grpc.aio.Channel, runtime: FakeRuntime, method: str
) -> None:
    payload = b"\x0a\xff\xff\xff flox"

    assert await forwarded(caller, runtime, method, payload) == payload


async def test_status_lists_mapped_handlers_with_the_features_of_the_real_ones(
    caller: grpc.aio.Channel,
    runtime: FakeRuntime,
) -> None:
    runtime.answer(STATUS, _status("", "runc", "runsc") + NEW)

    answer = await caller.unary_unary(STATUS)(b"", timeout=60)

    assert NEW in answer
    status = api_pb2.StatusResponse.FromString(answer)
    features = {each.name: each.features.user_namespaces for each in status.runtime_handlers}
    assert features == {"": True, "runc": True, "runsc": False, "flox": True, "flox-gvisor": False}
    assert status.info == {"config": "{}"}


async def test_status_says_of_a_name_that_the_runtime_has_too_what_it_means_here(
    caller: grpc.aio.Channel,
    runtime: FakeRuntime,
) -> None:
    runtime.answer(STATUS, _status("", "runsc", "flox-gvisor"))

    answer = await caller.unary_unary(STATUS)(b"", timeout=60)

    listed = api_pb2.StatusResponse.FromString(answer).runtime_handlers
    features = [(each.name, each.features.user_namespaces) for each in listed]
    assert features == [("", True), ("runsc", False), ("flox", True), ("flox-gvisor", False)]


@pytest.mark.parametrize("reported", [(), ("runc",)], ids=["no handlers", "none of the real ones"])
async def test_status_that_needs_nothing_passes_byte_for_byte(
    caller: grpc.aio.Channel, runtime: FakeRuntime, reported: tuple[str, ...]
) -> None:
    status = _status(*reported) + NEW
    runtime.answer(STATUS, status)

    assert await caller.unary_unary(STATUS)(b"", timeout=60) == status


def _status(*names: str) -> bytes:
    """Return the runtime's status; of its handlers only runsc cannot do user namespaces."""
    return api_pb2.StatusResponse(
        info={"config": "{}"},
        runtime_handlers=[
            api_pb2.RuntimeHandler(
                name=name,
                features=api_pb2.RuntimeHandlerFeatures(user_namespaces=name != "runsc"),
            )
            for name in names
        ],
    ).SerializeToString()


def test_nothing_is_intercepted_without_a_mapping() -> None:
    assert handlers.interceptors_of(handlers.Handlers({})) == {}
