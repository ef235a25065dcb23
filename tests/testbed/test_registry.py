"""The registry as a mirror of other registries."""

from __future__ import annotations

import pytest

from cri_proxy.cri import api_pb2
from hack.critest import fixtures
from hack.testbed import images
from hack.testbed.containerd import Containerd
from hack.testbed.kubelet import Spec
from hack.testbed.registry import Registry


@pytest.mark.e2e
def test_a_runtime_runs_an_image_pulled_from_a_mirror() -> None:
    (busybox,) = (each for each in images.of_testbed() if each.name == images.BUSYBOX)
    name = "registry.example/some/where/linux:3"
    image = images.Image(name=name, layers=busybox.layers, cmd=("echo", "pulled"))
    with Registry() as registry:
        registry.offer(image)
        mirrors = {"registry.example": registry.address}
        with Containerd(mirrors=mirrors) as containerd, containerd.pods() as pods:
            pods.client.call(
                "PullImage",
                api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=name)),
                api_pb2.PullImageResponse,
            )
            container = pods.run_pod("pulled").run(Spec(image=name))

            assert container.wait() == 0
            assert container.logs().stdout == b"pulled\n"


def test_critests_images_have_unique_names_and_are_served() -> None:
    names = [each.name for each in fixtures.all_images()]

    assert len(names) == len(set(names))
    assert {name.partition("/")[0] for name in names} <= set(fixtures.REGISTRIES)
    with Registry() as registry:
        for image in fixtures.all_images():
            registry.offer(image)
        assert registry.find("/v2/k8s-staging-cri-tools/test-image-latest/manifests/latest")
        assert registry.find("/v2/e2e-test-images/busybox/manifests/1.29-2")
