"""The node stays Ready and its pods keep running while the proxy and the runtime are disturbed.

kubelet reports every two seconds here, so that even a short NotReady would be noticed: the
condition keeps the time of its last change. Pods have exec liveness probes, which pass through all
disturbed programs; a probe that fails because the runtime is unavailable must not restart a
container.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.cri import api_pb2
from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import condition
from hack.testbed import cri, images, waiting
from tests.kubernetes.spaces import START_SECONDS, Space, identity, transitions

pytestmark = pytest.mark.disturbs

REPOSITORY = Path(__file__).parents[2]
COLLECTION_SECONDS = 420.0  # kubelet collects images every five minutes
LIVE = {
    "livenessProbe": {
        "exec": {"command": ["true"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "timeoutSeconds": 10,
    }
}


def restart_proxy(cluster: Cluster) -> None:
    """Restart it, as `systemctl restart` and an upgrade behind systemd's socket do."""
    cluster.proxy.restart()


def upgrade_proxy(cluster: Cluster) -> None:
    """Replace it by another version with `serve --replace`, and then by the first one again."""
    newer = cluster.directory / "newer"
    shutil.copytree(REPOSITORY / "cri_proxy", newer / "cri_proxy")
    (newer / "cri_proxy/__init__.py").write_text('__version__ = "99.0.0"\n')
    cluster.proxy.replace(newer)
    assert "99.0.0" in cluster.proxy.log_text()
    cluster.proxy.replace(REPOSITORY)


def kill_proxy(cluster: Cluster) -> None:
    """Kill it, and start it again as systemd does."""
    cluster.proxy.kill()
    cluster.proxy.start()


def restart_runtime(cluster: Cluster) -> None:
    cluster.runtime.restart()


def kill_runtime(cluster: Cluster) -> None:
    cluster.runtime.kill()
    cluster.runtime.restart()


def kill_both(cluster: Cluster) -> None:
    cluster.proxy.kill()
    cluster.runtime.kill()
    cluster.proxy.start(awaited=False)
    cluster.runtime.restart()
    waiting.until(cluster.proxy.socket.exists, what="the proxy's socket")


def restart_kubelet(cluster: Cluster) -> None:
    cluster.kubelet.restart()


@pytest.mark.parametrize(
    "disturb",
    [
        restart_proxy,
        upgrade_proxy,
        kill_proxy,
        restart_runtime,
        kill_runtime,
        kill_both,
        restart_kubelet,
    ],
)
def test_node_stays_ready_and_no_pod_is_restarted(
    space: Space, disturb: Callable[[Cluster], None]
) -> None:
    cluster = space.cluster
    space.push("undisturbed")
    space.run("annotated", environment="test/undisturbed", container=LIVE)
    space.run("ordinary", container=LIVE)
    before = {name: identity(space.ready(name)) for name in ("annotated", "ordinary")}
    since = transitions(cluster.node())

    disturb(cluster)
    space.run("later", environment="test/undisturbed", container=LIVE)
    _reported_again(cluster)

    after = {name: identity(space.ready(name)) for name in before}
    assert after == before
    assert transitions(cluster.node()) == since, space.explanation()
    assert not [each for each in space.kubectl.get("events") if each["reason"] == "Evicted"]


def test_a_pod_created_while_the_proxy_is_down_starts_when_it_is_up_again(space: Space) -> None:
    space.push("meanwhile", variables={"GREETING": "hello"})
    cluster = space.cluster

    cluster.proxy.kill()
    try:
        space.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "meanwhile",
                    "annotations": {"flox.dev/environment": "test/meanwhile"},
                },
                "spec": {
                    "containers": [
                        {
                            "name": "main",
                            "image": images.PLACEHOLDER,
                            "command": ["sh", "-c", 'echo "$GREETING"; exec sleep 2147483647'],
                        }
                    ]
                },
            }
        )
        space.pod("meanwhile", lambda pod: condition(pod, "PodScheduled") == "True")
    finally:
        cluster.proxy.start()
    space.ready("meanwhile")

    assert space.kubectl("logs", "meanwhile") == "hello\n"


@pytest.fixture
def collecting(cluster: Cluster) -> Iterator[None]:
    """Make kubelet delete every image that no container uses, as soon as it starts."""
    cluster.kubelet.configure(
        imageGCHighThresholdPercent=1, imageGCLowThresholdPercent=0, imageMinimumGCAge="1ms"
    )
    yield
    cluster.kubelet.configure(
        imageGCHighThresholdPercent=100, imageGCLowThresholdPercent=None, imageMinimumGCAge=None
    )
    cluster.kubelet.restart()
    cluster.runtime.import_images(images.of_testbed())


@pytest.fixture
def client(cluster: Cluster) -> Iterator[cri.Client]:
    """A separate connection through the proxy, at kubelet's socket."""
    made = cri.Client(cluster.proxy.socket)
    yield made
    made.close()


@pytest.mark.usefixtures("collecting")
def test_image_collection_keeps_the_placeholder_in_use_and_a_pull_restores_it(
    space: Space, client: cri.Client
) -> None:
    """The first collection runs before kubelet knows the disk, the next five minutes later."""
    cluster = space.cluster
    space.push("collected")
    before = identity(space.run("user", environment="test/collected", container=LIVE))

    cluster.kubelet.restart()
    waiting.until(
        lambda: not _has_image(client, images.DRESSED),
        what="kubelet to delete an unused image",
        seconds=COLLECTION_SECONDS,
    )
    kept = _has_image(client, images.PLACEHOLDER)
    after = identity(space.ready("user"))
    space.kubectl("delete", "pod", "user", "--grace-period=1")
    _remove_image(client, images.PLACEHOLDER)
    cluster.runtime.import_images(images.of_testbed())  # the sandbox's image was deleted, too
    space.run("next", environment="test/collected")

    assert kept
    assert after == before


def _remove_image(client: cri.Client, name: str) -> None:
    """Make the call that kubelet's next collection would make."""
    request = api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=name))
    client.call("RemoveImage", request, api_pb2.RemoveImageResponse)
    assert not _has_image(client, name)


def _has_image(client: cri.Client, name: str) -> bool:
    request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
    return client.call("ImageStatus", request, api_pb2.ImageStatusResponse).HasField("image")


def _reported_again(cluster: Cluster) -> None:
    """Wait for kubelet's next status report."""

    def heartbeat(node: dict[str, Any]) -> str:
        conditions = node["status"]["conditions"]
        return str(next(c["lastHeartbeatTime"] for c in conditions if c["type"] == "Ready"))

    last = heartbeat(cluster.node())
    cluster.kubectl.until(
        ["node", cluster.kubelet.name],
        lambda node: heartbeat(node) > last,
        seconds=START_SECONDS,
    )
