"""Handlers by other names, through the whole program: each call, each direction."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.message import Message

from cri_proxy.cri import api_pb2, methods
from hack.testbed import environments
from tests.daemon.conftest import Station

STATUS = methods.path_of("Status")
NEW = b"\xfa\x3f\x03new"
MAPPING = {"flox": "", "flox-gvisor": "runsc"}


@pytest.fixture
def mapping() -> dict[str, str]:
    """The setting `runtime.handlers`; override it by parametrization."""
    return MAPPING


@pytest.fixture
async def station(station: Station, mapping: dict[str, str]) -> Station:
    """Have the proxy run with the mapping."""
    station.proxy.configure({"runtime": {"handlers": mapping}})
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def image_requests(handler: str) -> dict[str, Message]:
    """Return each call that names an image, with one pulled for `handler`."""
    image = api_pb2.ImageSpec(image="busybox", annotations={"a": "1"}, runtime_handler=handler)
    return {
        "PullImage": api_pb2.PullImageRequest(image=image),
        "ImageStatus": api_pb2.ImageStatusRequest(image=image, verbose=True),
        "RemoveImage": api_pb2.RemoveImageRequest(image=image),
        "ListImages": api_pb2.ListImagesRequest(filter=api_pb2.ImageFilter(image=image)),
    }


async def forwarded(station: Station, method: str, payload: bytes) -> bytes:
    path = methods.path_of(method)
    await station.caller.unary_unary(path)(payload, timeout=60)
    return (await station.runtime.called(path)).payloads[0]


@pytest.mark.parametrize("method", image_requests("x"))
@pytest.mark.parametrize(("asked", "real"), MAPPING.items())
async def test_a_mapped_handler_of_an_image_becomes_the_runtimes_own(
    station: Station, method: str, asked: str, real: str
) -> None:
    payload = image_requests(asked)[method].SerializeToString() + NEW

    seen = await forwarded(station, method, payload)

    assert seen == image_requests(real)[method].SerializeToString() + NEW


@pytest.mark.parametrize("method", image_requests("x"))
@pytest.mark.parametrize("handler", ["", "runsc", "flox-other"])
async def test_any_other_handler_of_an_image_passes_byte_for_byte(
    station: Station, method: str, handler: str
) -> None:
    payload = image_requests(handler)[method].SerializeToString() + NEW

    assert await forwarded(station, method, payload) == payload


@pytest.mark.parametrize("method", image_requests("x"))
async def test_what_cannot_be_decoded_passes(station: Station, method: str) -> None:
    payload = b"\x0a\xff\xff\xff flox"

    assert await forwarded(station, method, payload) == payload


@pytest.mark.parametrize("mapping", [{}])
async def test_without_a_mapping_nothing_is_changed(station: Station) -> None:
    status = _status("", "runc", "flox") + NEW
    station.runtime.answer(STATUS, status)
    requests = image_requests("flox")
    requests["RunPodSandbox"] = api_pb2.RunPodSandboxRequest(runtime_handler="flox")

    for method, request in requests.items():
        payload = request.SerializeToString() + NEW
        assert await forwarded(station, method, payload) == payload
    assert await station.caller.unary_unary(STATUS)(b"", timeout=60) == status


async def test_status_lists_mapped_handlers_with_the_features_of_the_real_ones(
    station: Station,
) -> None:
    station.runtime.answer(STATUS, _status("", "runc", "runsc") + NEW)

    answer = await station.caller.unary_unary(STATUS)(b"", timeout=60)

    assert NEW in answer
    status = api_pb2.StatusResponse.FromString(answer)
    features = {each.name: each.features.user_namespaces for each in status.runtime_handlers}
    assert features == {"": True, "runc": True, "runsc": False, "flox": True, "flox-gvisor": False}
    assert status.info == {"config": "{}"}


async def test_status_says_of_a_name_that_the_runtime_has_too_what_it_means_here(
    station: Station,
) -> None:
    station.runtime.answer(STATUS, _status("", "runsc", "flox-gvisor"))

    answer = await station.caller.unary_unary(STATUS)(b"", timeout=60)

    handlers = api_pb2.StatusResponse.FromString(answer).runtime_handlers
    features = [(each.name, each.features.user_namespaces) for each in handlers]
    assert features == [("", True), ("runsc", False), ("flox", True), ("flox-gvisor", False)]


@pytest.mark.parametrize("reported", [(), ("runc",)], ids=["no handlers", "none of the real ones"])
async def test_status_that_needs_nothing_passes_byte_for_byte(
    station: Station, reported: tuple[str, ...]
) -> None:
    status = _status(*reported) + NEW
    station.runtime.answer(STATUS, status)

    assert await station.caller.unary_unary(STATUS)(b"", timeout=60) == status


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


def _status(*handlers: str) -> bytes:
    """Return the runtime's status; of its handlers only runsc cannot do user namespaces."""
    return api_pb2.StatusResponse(
        info={"config": "{}"},
        runtime_handlers=[
            api_pb2.RuntimeHandler(
                name=name,
                features=api_pb2.RuntimeHandlerFeatures(user_namespaces=name != "runsc"),
            )
            for name in handlers
        ],
    ).SerializeToString()
