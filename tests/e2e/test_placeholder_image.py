"""The placeholder image, supplied by the proxy: there is no registry here to pull it from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.model import placeholder
from hack.testbed import images
from tests.e2e.conftest import Node

ROOT = placeholder.build()
FULL_NAME = f"docker.io/{images.PLACEHOLDER}"


def pull(node: Node, name: str) -> str:
    """Pull as kubelet does for a pod that says `imagePullPolicy: Always`."""
    request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=name))
    return node.pods.client.call(
        "PullImage", request, api_pb2.PullImageResponse, seconds=None
    ).image_ref


def image_of(node: Node, name: str) -> api_pb2.Image | None:
    request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
    answer = node.pods.client.call("ImageStatus", request, api_pb2.ImageStatusResponse)
    return answer.image if answer.HasField("image") else None


def remove(node: Node, name: str) -> None:
    """Remove an image as kubelet's garbage collection does: by id, with all its names."""
    image = image_of(node, name)
    if image is not None:
        request = api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=image.id))
        node.pods.client.call("RemoveImage", request, api_pb2.RemoveImageResponse)


def listed(node: Node) -> set[str]:
    request = api_pb2.ListImagesRequest()
    answer = node.pods.client.call("ListImages", request, api_pb2.ListImagesResponse)
    return {image.id for image in answer.images}


@pytest.fixture
def bare(node: Node) -> Iterator[Node]:
    """A node that has no placeholder image, whatever other tests left."""
    names = (images.PLACEHOLDER, f"flox/empty@{ROOT.digest}")
    for name in names:
        remove(node, name)
    yield node
    for name in names:
        remove(node, name)


def test_it_is_an_image_like_any_other_once_it_is_pulled(bare: Node) -> None:
    assert image_of(bare, images.PLACEHOLDER) is None

    image_id = pull(bare, images.PLACEHOLDER)

    image = image_of(bare, images.PLACEHOLDER)
    assert image is not None
    assert image.id == image_id
    assert image_id in listed(bare)
    assert FULL_NAME in image.repo_tags
    assert f"docker.io/flox/empty@{ROOT.digest}" in image.repo_digests
    assert not image.pinned


def test_removed_by_garbage_collection_it_is_supplied_again(bare: Node) -> None:
    first = pull(bare, images.PLACEHOLDER)
    remove(bare, images.PLACEHOLDER)
    assert first not in listed(bare)

    bare.push("web")

    assert bare.output("acme/web", "echo", "again") == "again\n"
    assert first in listed(bare)


def test_pulling_it_when_it_is_there_changes_nothing(bare: Node) -> None:
    """As kubelet does for every start when the pull policy is Always."""
    first = pull(bare, images.PLACEHOLDER)

    assert pull(bare, images.PLACEHOLDER) == first


@pytest.mark.parametrize(
    "name",
    [
        FULL_NAME,
        "index.docker.io/flox/empty:1.0.0",
        f"flox/empty@{ROOT.digest}",
        f"{images.PLACEHOLDER}@{ROOT.digest}",
    ],
)
def test_every_spelling_of_its_name_is_recognized(bare: Node, name: str) -> None:
    image_id = pull(bare, name)

    image = image_of(bare, name)
    assert image is not None
    assert image.id == image_id


def test_pods_that_start_concurrently_all_get_it(bare: Node) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: pull(bare, images.PLACEHOLDER), range(8)))

    assert len(ids) == 1


def test_an_ordinary_pod_may_name_it_too(bare: Node) -> None:
    pod = bare.pods.run_pod("plain")

    assert pod.image_id(images.PLACEHOLDER) in listed(bare)


def test_another_image_of_the_name_is_kept(bare: Node) -> None:
    other = images.Image(name=FULL_NAME, layers=(images.layer({"own": images.File(b"x")}),))
    bare.containerd.import_images([other])
    before = image_of(bare, images.PLACEHOLDER)

    pull(bare, images.PLACEHOLDER)

    assert image_of(bare, images.PLACEHOLDER) == before


def test_its_name_can_be_set(bare: Node) -> None:
    name = "registry.invalid/nothing:1"
    bare.proxy.configure({"pods": {"placeholder_images": [name]}})
    bare.proxy.restart()

    assert pull(bare, name) in listed(bare)
    with pytest.raises(grpc.RpcError):
        pull(bare, "registry.invalid/another:1")
    remove(bare, name)


def test_it_has_writable_directories_users_and_host_names(bare: Node) -> None:
    bare.push("web")

    seen = bare.output(
        "acme/web",
        "sh",
        "-c",
        "ls -ldn /tmp /var/tmp /run/ /root /home/nobody; cat /etc/passwd /etc/group"
        " /etc/nsswitch.conf; ls -d /var/run/; touch /run/x /root/x /tmp/x /var/tmp/x && echo ok",
        user=0,
    )

    assert "drwxrwxrwt" in seen
    assert "nobody:x:65534:65534:nobody:/home/nobody:/bin/sh" in seen
    assert "hosts: files dns" in seen
    assert seen.endswith("ok\n")


def test_no_user_has_a_home_directory(bare: Node) -> None:
    bare.push("web")

    seen = bare.output(
        "acme/web", "sh", "-c", 'touch "$HOME/x" /tmp/x && echo "$HOME"; whoami', user=65534
    )

    assert seen == "/home/nobody\nnobody\n"


def test_a_user_without_a_passwd_entry_can_write_to_tmp(bare: Node) -> None:
    bare.push("web", bare.published.bash, hook='echo made >"$FLOX_ENV_CACHE/made"')

    assert bare.output("acme/web", "cat", "/tmp/made", user=4242) == "made\n"
