"""`cri-proxy install` reads a node's status from a real API server with kubelet's credentials."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cri_proxy.node import readiness
from cri_proxy.node.readiness import Login
from cri_proxy.node.root import Root
from hack.cluster.cluster import NODE, Cluster
from hack.testbed import waiting

KUBEADM = "/etc/kubernetes/kubelet.conf"
OPENSHIFT = "/var/lib/kubelet/kubeconfig"
Make = Callable[[str], Login]


@pytest.fixture(params=["by path", "inline", "by flag"])
def login(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Make:
    """Return a function that reads the credentials of a node's kubelet from its files."""

    def made(node: str) -> Login:
        authority = cluster.plane.authority
        file = authority.kubeconfig(
            f"login-{node}", f"system:node:{node}", cluster.plane.server, ["system:nodes"]
        )
        document = json.loads(file.read_text())
        place = OPENSHIFT if request.param == "by flag" else KUBEADM
        if request.param != "inline":
            (user,) = (each["user"] for each in document["users"])
            names = ("client-certificate-data", "client-key-data")
            pem = tmp_path / "kubelet-client-current.pem"
            pem.write_bytes(b"".join(base64.b64decode(user.pop(name)) for name in names))
            user["client-certificate"] = user["client-key"] = str(pem)
        root = Root(tmp_path)
        root.at(place).parent.mkdir(parents=True, exist_ok=True)
        root.at(place).write_text(yaml.safe_dump(document))
        words = [f"--kubeconfig={place}"] if request.param == "by flag" else []
        found = readiness.login_of(root, words)
        assert found is not None
        return found

    return made


@pytest.fixture
def ghost(cluster: Cluster) -> Iterator[str]:
    """A node without a kubelet."""
    name = "ghost"
    cluster.kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield name
    cluster.kubectl("delete", "node", name)


def test_a_node_is_ready_by_its_kubelets_newer_report(login: Make) -> None:
    kubelet, now = login(NODE), datetime.now(UTC)

    before = kubelet.is_ready(NODE, since=now - timedelta(hours=1))
    ever = kubelet.is_ready(NODE, since=None)
    later = kubelet.is_ready(NODE, since=now + timedelta(hours=1))

    assert (before, ever, later) == (True, True, False)


def test_kubelets_next_report_counts_as_new(login: Make) -> None:
    kubelet, now = login(NODE), datetime.now(UTC)

    waiting.until(lambda: kubelet.is_ready(NODE, since=now), what="kubelet's next report")


def test_a_node_that_is_not_ready_is_not(login: Make, ghost: str, cluster: Cluster) -> None:
    kubelet = login(ghost)
    unknown = kubelet.is_ready(ghost, since=None)
    condition = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": ""}
    status = {"status": {"conditions": [condition]}}

    cluster.kubectl(
        *("patch", "node", ghost, "--subresource=status", "--type=merge"), "-p", json.dumps(status)
    )

    assert unknown is False
    assert kubelet.is_ready(ghost, since=None) is False


def test_a_node_that_these_credentials_may_not_read_is_no_failure(login: Make) -> None:
    """The name that a cloud gives a node may differ from its hostname."""
    assert login(NODE).is_ready("another", since=None) is None
