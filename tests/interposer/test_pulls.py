"""Pulls: whose image is supplied, and that all others pass untouched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import grpc
import pytest

from cri_proxy.containerd import api_pb2 as containerd
from cri_proxy.containerd.images import Images
from cri_proxy.cri import api_pb2, channels, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import pulls
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.model import imagenames, placeholder
from hack.testbed.fake_runtime import Context, FakeRuntime
from hack.testbed.relays import Relays

Pull: TypeAlias = Callable[[bytes], Awaitable[bytes]]

PULL = methods.path_of("PullImage")
STATUS = methods.path_of("ImageStatus")
LEASE = "/containerd.services.leases.v1.Leases/Create"
RELEASE = "/containerd.services.leases.v1.Leases/Delete"
WRITE = "/containerd.services.content.v1.Content/Write"
NAME = "/containerd.services.images.v1.Images/Create"


@pytest.fixture
async def pull(runtime: FakeRuntime, relays: Relays) -> AsyncIterator[Pull]:
    """A pull through the interceptor, in front of a runtime that has no image."""
    runtime.answer(STATUS, api_pb2.ImageStatusResponse())
    channel = channels.dial(runtime.socket)
    interceptor = pulls.PullImage(
        [imagenames.parse("flox/empty:1.0.0")], Runtime(channel), Images(channel), Handlers({})
    )
    relay = await relays.start({PULL: interceptor})

    async def pull(payload: bytes) -> bytes:
        return await relay.caller.unary_unary(PULL)(payload, timeout=60)

    yield pull
    await channel.close()


def pull_request(name: str) -> bytes:
    """Return a pull with a field that no version of today knows."""
    request = api_pb2.PullImageRequest(
        image=api_pb2.ImageSpec(image=name, annotations={"b": "1", "a": "2"}),
        sandbox_config=api_pb2.PodSandboxConfig(annotations={"flox.dev/environment": "acme/web"}),
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


@pytest.mark.parametrize(
    "name",
    [
        "busybox",
        "flox/empty",
        "flox/empty:1.0.1",
        "quay.io/flox/empty:1.0.0",
        "flox/empty:1.0.0@sha256:" + "0" * 64,
        "NOT a name",
    ],
)
async def test_every_other_image_is_pulled_byte_for_byte(
    runtime: FakeRuntime, pull: Pull, name: str
) -> None:
    payload = pull_request(name)

    answer = await pull(payload)

    assert answer == payload  # the runtime's, which is the payload itself
    assert [(call.path, call.payloads) for call in runtime.calls] == [(PULL, [payload])]


async def test_a_pull_that_cannot_be_decoded_passes(pull: Pull) -> None:
    payload = b"\x0a\xff\xff\xff flox/empty:1.0.0"

    assert await pull(payload) == payload


@pytest.mark.parametrize("path", [LEASE, WRITE, NAME])
async def test_a_runtime_that_takes_no_image_pulls_it_as_usual(
    runtime: FakeRuntime, pull: Pull, path: str
) -> None:
    runtime.fail(path, grpc.StatusCode.UNIMPLEMENTED, f"unknown method {path}")
    payload = pull_request("flox/empty:1.0.0")

    assert await pull(payload) == payload


async def test_the_runtimes_refusal_of_that_pull_passes_untouched(
    runtime: FakeRuntime, pull: Pull
) -> None:
    runtime.fail(LEASE, grpc.StatusCode.UNIMPLEMENTED, "unknown service")
    runtime.fail(PULL, grpc.StatusCode.NOT_FOUND, "no such image")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pull(pull_request("flox/empty:1.0.0"))

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no such image"


async def test_the_image_is_given_under_a_lease_and_its_id_awaited(
    runtime: FakeRuntime, pull: Pull
) -> None:
    asked = 0

    async def status(payloads: AsyncIterator[bytes], context: Context) -> None:
        nonlocal asked
        asked += 1
        known = api_pb2.Image(id="sha256:1") if asked == 3 else None
        await context.write(api_pb2.ImageStatusResponse(image=known).SerializeToString())

    runtime.on(STATUS, status)
    payload = pull_request("flox/empty:1.0.0")

    answer = await pull(payload)

    assert api_pb2.PullImageResponse.FromString(answer).image_ref == "sha256:1"
    blobs = list(placeholder.build().walk())
    paths = [call.path for call in runtime.calls]
    assert paths == [STATUS, LEASE, *[WRITE] * len(blobs), NAME, NAME, RELEASE, STATUS, STATUS]
    lease = containerd.CreateLeaseRequest.FromString((await runtime.called(LEASE)).payloads[0])
    assert "containerd.io/gc.expire" in lease.labels
    for path in (WRITE, NAME):
        call = await runtime.called(path)
        assert call.values_of("containerd-namespace") == ["k8s.io"]
        assert call.values_of("containerd-lease") == [lease.id]


async def test_an_image_that_the_runtime_has_is_not_given_again(
    runtime: FakeRuntime, pull: Pull
) -> None:
    runtime.answer(STATUS, api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:own")))

    answer = await pull(pull_request("flox/empty:1.0.0"))

    assert api_pb2.PullImageResponse.FromString(answer).image_ref == "sha256:own"
    assert [call.path for call in runtime.calls] == [STATUS]
