"""What the runtime says of an image's configuration, read."""

from __future__ import annotations

import json

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import imageconfigs
from cri_proxy.interposer.adjustment import ImageConfig
from hack.testbed.fake_runtime import FakeRuntime

STATUS = methods.path_of("ImageStatus")
SPEC = api_pb2.ImageSpec(image="sha256:1")


def status_of(config: object, *, image_id: str = "sha256:1") -> api_pb2.ImageStatusResponse:
    return api_pb2.ImageStatusResponse(
        image=api_pb2.Image(id=image_id),
        info={"info": json.dumps({"imageSpec": {"config": config}})},
    )


async def test_the_configuration_is_read_once_for_an_image_id(runtime: FakeRuntime) -> None:
    config = {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=1=2", "B="], "WorkingDir": "/w"}
    runtime.answer(STATUS, status_of(config))
    channel = channels.dial(runtime.socket)
    known = imageconfigs.ImageConfigs(Runtime(channel))

    first = await known.config_of(SPEC)
    second = await known.config_of(SPEC)
    await channel.close()

    assert first == second == ImageConfig(("/e",), ("c",), {"A": "1=2", "B": ""}, "/w")
    assert len(runtime.calls) == 1


async def test_a_name_is_asked_for_each_time(runtime: FakeRuntime) -> None:
    runtime.answer(STATUS, status_of({}))
    channel = channels.dial(runtime.socket)
    known = imageconfigs.ImageConfigs(Runtime(channel))

    for _ in range(2):
        await known.config_of(api_pb2.ImageSpec(image="busybox:latest"))
    await channel.close()

    assert len(runtime.calls) == 2


async def test_an_image_that_the_runtime_lacks_is_refused_by_name(runtime: FakeRuntime) -> None:
    runtime.answer(STATUS, api_pb2.ImageStatusResponse())
    channel = channels.dial(runtime.socket)

    with pytest.raises(errors.NotFound, match="sha256:1"):
        await imageconfigs.ImageConfigs(Runtime(channel)).config_of(SPEC)
    await channel.close()


@pytest.mark.parametrize("config", ["null", "{}", '{"Env": null, "Cmd": null}'])
def test_an_image_without_configuration_names_nothing(config: str) -> None:
    assert imageconfigs.parse(f'{{"imageSpec": {{"config": {config}}}}}') == ImageConfig()


@pytest.mark.parametrize(
    "info",
    [
        "",
        "text",
        "[]",
        "{}",
        '{"imageSpec": null}',
        '{"imageSpec": {"config": {"Env": 1}}}',
        '{"imageSpec": {"config": {"Cmd": "sh"}}}',
        '{"imageSpec": {"config": {"Entrypoint": [1]}}}',
    ],
)
def test_a_description_of_another_shape_leaves_the_configuration_unknown(info: str) -> None:
    assert imageconfigs.parse(info) == ImageConfig(is_known=False)


async def test_an_image_that_the_runtime_does_not_describe_is_unknown(
    runtime: FakeRuntime,
) -> None:
    runtime.answer(STATUS, api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")))
    channel = channels.dial(runtime.socket)

    config = await imageconfigs.ImageConfigs(Runtime(channel)).config_of(SPEC)
    await channel.close()

    assert not config.is_known
