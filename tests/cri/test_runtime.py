"""Runtime: the proxy's own questions, and what becomes of refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.cri.runtime import Runtime
from hack.testbed.fake_runtime import DEADLINE_SECONDS, Context, FakeRuntime

VERSION = methods.path_of("Version")
STATUS = methods.path_of("Status")
IMAGE_STATUS = methods.path_of("ImageStatus")
LIST_CONTAINERS = methods.path_of("ListContainers")
CONTAINER_STATUS = methods.path_of("ContainerStatus")


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(tmp_path / "runtime.sock") as fake:
        yield fake


@pytest.fixture
async def runtime(fake: FakeRuntime) -> AsyncIterator[Runtime]:
    async with channels.dial(fake.socket) as channel:
        yield Runtime(channel)


async def test_version_is_asked_as_kubelet_asks_it(fake: FakeRuntime, runtime: Runtime) -> None:
    said = api_pb2.VersionResponse(version="0.1.0", runtime_name="containerd")
    fake.answer(VERSION, said)

    assert await runtime.version() == said

    (payload,) = (await fake.called(VERSION)).payloads
    assert api_pb2.VersionRequest.FromString(payload).version == "v1"


@pytest.mark.parametrize("verbose", [True, False])
async def test_status_is_verbose_when_asked_to_be(
    verbose: bool, fake: FakeRuntime, runtime: Runtime
) -> None:
    said = api_pb2.StatusResponse(info={"config": "{}"})
    fake.answer(STATUS, said)

    assert await runtime.status(verbose=verbose) == said

    (payload,) = (await fake.called(STATUS)).payloads
    assert api_pb2.StatusRequest.FromString(payload).verbose is verbose


async def test_image_status_is_of_the_image_asked_for(fake: FakeRuntime, runtime: Runtime) -> None:
    said = api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1"), info={"info": "{}"})
    fake.answer(IMAGE_STATUS, said)
    image = api_pb2.ImageSpec(image="flox/empty:1.0.0")

    assert await runtime.image_status(image, verbose=True) == said

    (payload,) = (await fake.called(IMAGE_STATUS)).payloads
    assert api_pb2.ImageStatusRequest.FromString(payload).image == image


async def test_image_that_is_not_there_is_no_error(fake: FakeRuntime, runtime: Runtime) -> None:
    fake.answer(IMAGE_STATUS, b"")

    answer = await runtime.image_status(api_pb2.ImageSpec(image="absent"))

    assert not answer.HasField("image")


async def test_containers_are_all_that_the_runtime_lists(
    fake: FakeRuntime, runtime: Runtime
) -> None:
    containers = [
        api_pb2.Container(id=str(number), state=api_pb2.CONTAINER_EXITED) for number in range(1000)
    ]
    fake.answer(LIST_CONTAINERS, api_pb2.ListContainersResponse(containers=containers))

    assert await runtime.containers() == containers
    assert (await fake.called(LIST_CONTAINERS)).payloads == [b""]


async def test_container_status_is_of_the_container_asked_for(
    fake: FakeRuntime, runtime: Runtime
) -> None:
    said = api_pb2.ContainerStatusResponse(status=api_pb2.ContainerStatus(id="c1"))
    fake.answer(CONTAINER_STATUS, said)

    assert await runtime.container_status("c1") == said

    (payload,) = (await fake.called(CONTAINER_STATUS)).payloads
    assert api_pb2.ContainerStatusRequest.FromString(payload).container_id == "c1"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.SourceUnreachable),
        (grpc.StatusCode.UNKNOWN, errors.SourceUnreachable),  # containerd 1.x while it starts
        (grpc.StatusCode.CANCELLED, errors.SourceUnreachable),
        (grpc.StatusCode.UNIMPLEMENTED, errors.RequestInvalid),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.PERMISSION_DENIED, errors.AccessDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.NodeExhausted),
    ],
)
async def test_refusal_is_raised_as_ours_with_the_runtimes_status_as_its_cause(
    code: grpc.StatusCode,
    kind: type[errors.CriProxyError],
    fake: FakeRuntime,
    runtime: Runtime,
) -> None:
    fake.fail(STATUS, code, "so it is", trailers=(("x-trailer", "t"),))

    with pytest.raises(kind) as refusal:
        await runtime.status()

    assert type(refusal.value) is kind
    assert f"Status with {code.name} (so it is)" in str(refusal.value)
    cause = refusal.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    assert cause.code() is code
    assert tuple(cause.trailing_metadata()) == (("x-trailer", "t"),)


async def test_runtime_that_does_not_answer_is_unreachable_after_the_deadline(
    fake: FakeRuntime, runtime: Runtime
) -> None:
    fake.on(STATUS, _wait_for_ever)

    with pytest.raises(errors.SourceUnreachable, match="Status with DEADLINE_EXCEEDED"):
        await runtime.status(within=0.5)


async def test_runtime_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async with channels.dial(tmp_path / "absent.sock") as channel:
        with pytest.raises(errors.SourceUnreachable, match=r"absent\.sock"):
            await Runtime(channel).version()


async def test_answer_that_is_no_message_is_damaged(fake: FakeRuntime, runtime: Runtime) -> None:
    fake.answer(VERSION, b"\xff\xff\xff")

    with pytest.raises(errors.ContentDamaged, match="response to Version is not a CRI v1 message"):
        await runtime.version()


async def test_question_that_is_cancelled_is_cancelled_at_the_runtime(
    fake: FakeRuntime, runtime: Runtime
) -> None:
    fake.on(STATUS, _wait_for_ever)
    question = asyncio.ensure_future(runtime.status(within=DEADLINE_SECONDS))
    received = await fake.called(STATUS)

    question.cancel()

    async with asyncio.timeout(DEADLINE_SECONDS):
        await received.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await question


async def _wait_for_ever(payloads: AsyncIterator[bytes], context: Context) -> None:
    await asyncio.get_running_loop().create_future()
