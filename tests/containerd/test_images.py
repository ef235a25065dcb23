"""Importing an image into a real containerd: it is whole, it stays, and nothing else does."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import grpc
import pytest

from cri_proxy import errors
from cri_proxy.containerd.images import Images
from cri_proxy.cri import api_pb2, channels
from cri_proxy.model import placeholder
from hack.testbed import waiting
from hack.testbed.containerd import Containerd
from hack.testbed.fake_runtime import FakeRuntime
from hack.testbed.pods import Pods

ROOT = placeholder.build()


@pytest.fixture
def name(containerd: Containerd) -> Iterator[str]:
    """A name that no other test gives an image, and that no image has afterwards."""
    name = f"registry.test/placeholder:{secrets.token_hex(4)}"
    yield name
    containerd.ctr("images", "rm", "--sync", name)


async def add(containerd: Containerd, *names: str) -> None:
    channel = channels.dial(containerd.socket)
    await Images(channel).add(names, ROOT)
    await channel.close()


def image_of(pods: Pods, name: str) -> api_pb2.Image | None:
    request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
    answer = pods.client.call("ImageStatus", request, api_pb2.ImageStatusResponse)
    return answer.image if answer.HasField("image") else None


@pytest.mark.e2e
async def test_the_cri_takes_the_image_over_under_all_its_names(
    containerd: Containerd, pods: Pods, name: str
) -> None:
    by_digest = f"registry.test/placeholder@{ROOT.digest}"

    await add(containerd, by_digest, name)

    image = waiting.until(lambda: image_of(pods, name), what="the CRI to know the image")
    assert name in image.repo_tags
    assert by_digest in image.repo_digests
    assert image.size > 0
    assert image_of(pods, image.id) == image
    containerd.ctr("images", "rm", by_digest)


@pytest.mark.e2e
async def test_an_import_may_be_repeated(containerd: Containerd, pods: Pods, name: str) -> None:
    await add(containerd, name)

    await add(containerd, name)

    assert waiting.until(lambda: image_of(pods, name), what="the CRI to know the image")


@pytest.mark.e2e
async def test_a_name_that_is_taken_keeps_its_image(containerd: Containerd, name: str) -> None:
    containerd.ctr("images", "tag", "docker.io/library/busybox:1", name)

    await add(containerd, name)

    (line,) = [each for each in containerd.ctr("images", "ls").splitlines() if name in each]
    assert ROOT.digest not in line


@pytest.mark.e2e
async def test_garbage_collection_takes_nothing_of_the_image_and_no_lease_is_left(
    containerd: Containerd, name: str
) -> None:
    before = set(containerd.ctr("leases", "ls", "--quiet").split())
    await add(containerd, name)

    assert set(containerd.ctr("leases", "ls", "--quiet").split()) == before
    lease = containerd.ctr("leases", "create").strip()
    containerd.ctr("leases", "delete", "--sync", lease)  # collects garbage

    content = containerd.ctr("content", "ls", "--quiet").split()
    assert {blob.digest for blob in ROOT.walk()} <= set(content)


async def test_another_runtime_is_told_from_containerd(runtime: FakeRuntime) -> None:
    path = "/containerd.services.leases.v1.Leases/Create"
    runtime.fail(path, grpc.StatusCode.UNIMPLEMENTED, "unknown service")
    channel = channels.dial(runtime.socket)

    with pytest.raises(errors.RequestInvalid, match="unknown service"):
        await Images(channel).add(["registry.test/x:1"], ROOT)
    await channel.close()


async def test_a_write_that_fails_still_ends_the_lease(runtime: FakeRuntime) -> None:
    runtime.fail(
        "/containerd.services.content.v1.Content/Write", grpc.StatusCode.INTERNAL, "disk full"
    )
    channel = channels.dial(runtime.socket)

    with pytest.raises(errors.SourceUnreachable, match="disk full"):
        await Images(channel).add(["registry.test/x:1"], ROOT)
    await channel.close()

    assert [call.path.rpartition("/")[2] for call in runtime.calls] == ["Create", "Write", "Delete"]
