"""Handlers by other names, through the whole program as the settings have them."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import Message

from cri_proxy.cri import api_pb2, methods
from hack.testbed import environments
from tests.daemon.conftest import Station

STATUS = methods.path_of("Status")
NEW = b"\xfa\x3f\x03new"


@pytest.fixture
def mapping() -> dict[str, str]:
    """The setting `runtime.handlers`; override it by parametrization."""
    return {"flox": "", "flox-gvisor": "runsc"}


@pytest.fixture
async def station(station: Station, mapping: dict[str, str]) -> Station:
    """Start the proxy with the mapping."""
    station.proxy.configure({"runtime": {"handlers": mapping}})
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def requests(handler: str) -> dict[str, Message]:
    """Return each call that may name a handler, naming this one."""
    image = api_pb2.ImageSpec(image="busybox", runtime_handler=handler)
    return {
        "PullImage": api_pb2.PullImageRequest(image=image),
        "ImageStatus": api_pb2.ImageStatusRequest(image=image),
        "RemoveImage": api_pb2.RemoveImageRequest(image=image),
        "ListImages": api_pb2.ListImagesRequest(filter=api_pb2.ImageFilter(image=image)),
        "RunPodSandbox": api_pb2.RunPodSandboxRequest(
            runtime_handler=handler,
            config=api_pb2.PodSandboxConfig(annotations={"flox.dev/environment": "acme/web"}),
        ),
    }


def status() -> bytes:
    """Return a runtime's status with three handlers."""
    reported = [api_pb2.RuntimeHandler(name=name) for name in ("", "runsc", "flox")]
    return api_pb2.StatusResponse(runtime_handlers=reported).SerializeToString() + NEW


async def forwarded(station: Station, method: str, payload: bytes) -> bytes:
    """Return what the runtime received for one unary call of `payload`."""
    path = methods.path_of(method)
    await station.caller.unary_unary(path)(payload, timeout=60)
    return (await station.runtime.called(path)).payloads[0]


async def test_a_mapped_handler_becomes_the_runtimes_own_in_every_call(station: Station) -> None:
    station.runtime.answer(STATUS, status())

    for method, request in requests("flox-gvisor").items():
        seen = await forwarded(station, method, request.SerializeToString())
        assert seen == requests("runsc")[method].SerializeToString(), method
    answer = await station.caller.unary_unary(STATUS)(b"", timeout=60)

    reported = api_pb2.StatusResponse.FromString(answer).runtime_handlers
    assert {each.name for each in reported} == {"", "runsc", "flox", "flox-gvisor"}


@pytest.mark.parametrize("mapping", [{}])
async def test_without_a_mapping_nothing_is_changed(station: Station) -> None:
    station.runtime.answer(STATUS, status())

    for method, request in requests("flox").items():
        payload = request.SerializeToString() + NEW
        assert await forwarded(station, method, payload) == payload, method
    assert await station.caller.unary_unary(STATUS)(b"", timeout=60) == status()


async def test_the_images_of_a_container_are_named_for_the_runtimes_own_handler(
    station: Station,
) -> None:
    station.hub.push("acme", "web", environments.lockfile(station.published.tools))
    station.runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )
    volume = api_pb2.ImageSpec(image="sha256:2", runtime_handler="flox-gvisor")
    request = api_pb2.CreateContainerRequest(
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main"),
            image=api_pb2.ImageSpec(image="sha256:1", runtime_handler="flox-gvisor"),
            command=["true"],
            mounts=[api_pb2.Mount(container_path="/data", image=volume)],
        ),
        sandbox_config=api_pb2.PodSandboxConfig(annotations={"flox.dev/environment": "acme/web"}),
    )

    seen = await forwarded(station, "CreateContainer", request.SerializeToString())

    config = api_pb2.CreateContainerRequest.FromString(seen).config
    assert config.image.runtime_handler == "runsc"
    assert config.mounts[0].image.runtime_handler == "runsc"
