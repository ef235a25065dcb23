"""The installer on a cluster, with the real image, DaemonSet, ConfigMap, release and node.

The node is a machine with systemd, containerd and a kubelet that has joined the cluster as with
kubeadm (`worker`); the release in dist/ is installed there.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from hack import installer
from hack.cluster import worker
from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import Kubectl, condition
from hack.cluster.worker import Worker
from hack.testbed.machine import difference
from hack.testbed.proxy import toml_of
from tests.kubernetes.spaces import START_SECONDS, Space, identity, transitions

MANIFESTS: Final = Path(__file__).parents[2] / "manifests"
COMMAND: Final = "/usr/local/bin/cri-proxy"
READY: Final = f"node {worker.NAME} is Ready"
ROLLOUT_SECONDS: Final = 300
OTHER_RUNTIME: Final = """\
version = 2
root = "/run/other-root"
state = "/run/other"
[grpc]
  address = "/run/other/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "/run/other/none"
"""
KEPT: Final = ("var/lib/cri-proxy", "var/lib/cni")
"""Paths that an uninstallation leaves, and paths that change with pods."""


@pytest.fixture(scope="module")
def made(
    cluster: Cluster, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A second node, with systemd."""
    if shutil.which("debootstrap") is None:
        pytest.fail("this machine lacks debootstrap: make e2e-kubernetes", pytrace=False)
    directory = tmp_path_factory.mktemp("worker")
    with Worker(cluster, directory, {"/testbed/tree": tree}) as running:
        yield running


@pytest.fixture
def node(made: Worker, kubectl: Kubectl) -> Iterator[Worker]:
    """The only node with the label; without cri-proxy before and after the test."""
    kubectl("label", "node", "node", "flox.dev/enabled-")
    kubectl("label", "node", worker.NAME, "flox.dev/enabled=true", "--overwrite")
    yield made
    kubectl("delete", "namespace", "cri-proxy", "--ignore-not-found", seconds=180)
    made.machine.run(COMMAND, "uninstall")
    made.machine.run("rm", "-rf", "/etc/cri-proxy")
    kubectl("label", "node", "node", "flox.dev/enabled=true")


@pytest.fixture(scope="module")
def image(made: Worker, tarball: Path) -> str:
    """Import the installer's image of the release to the node; return its tag."""
    return _imported(made, tarball)


@pytest.fixture(scope="module")
def newer_image(made: Worker, newer: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same for another release."""
    file = f"cri-proxy-99.0.0-linux-{platform.machine()}.tar.gz"
    tarball = tmp_path_factory.mktemp("newer-tarball") / file
    argv = ["tar", "-C", newer.parent, "-I", "gzip -1", "-cf", tarball, newer.name]
    subprocess.run(argv, check=True)
    return _imported(made, tarball)


def _imported(node: Worker, tarball: Path) -> str:
    image = installer.image_of(tarball)
    node.import_images([image])
    return image.name.rpartition(":")[2]


class Overlay:
    """An administrator's kustomization: image and settings on top of one of ours."""

    def __init__(self, cluster: Cluster, directory: Path, tag: str) -> None:
        self._kubectl = cluster.kubectl.within("cri-proxy")
        self._directory = directory
        self._tag = tag
        self._settings: Mapping[str, Mapping[str, Any]] = cluster.settings

    def apply(self, name: str = "generic", *, tag: str = "", **settings: Any) -> None:
        """Apply it on top of manifests/`name`, and wait for its rollout; changes are kept."""
        self._tag = tag or self._tag
        self._settings = {**self._settings, **settings}
        self._directory.mkdir(exist_ok=True)
        (self._directory / "config.toml").write_text(toml_of(self._settings))
        (self._directory / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "resources": [os.path.relpath(MANIFESTS / name, self._directory)],
                    "namespace": "cri-proxy",
                    "images": [{"name": installer.NAME, "newTag": self._tag}],
                    "configMapGenerator": [
                        {"name": "cri-proxy", "behavior": "merge", "files": ["config.toml"]}
                    ],
                }
            )
        )
        self._kubectl("apply", "-k", str(self._directory))
        rollout = ("rollout", "status", "daemonset/installer", f"--timeout={ROLLOUT_SECONDS}s")
        try:
            self._kubectl(*rollout, seconds=2 * ROLLOUT_SECONDS)
        except AssertionError as error:
            error.add_note(self.log())
            raise

    def log(self) -> str:
        """Return the installer's log."""
        return self._kubectl(
            "logs", "--selector=app.kubernetes.io/component=installer", "--tail=-1"
        )


@pytest.fixture
def overlay(cluster: Cluster, image: str, tmp_path: Path) -> Overlay:
    return Overlay(cluster, tmp_path / "overlay", image)


def run(space: Space, name: str, **parts: Any) -> dict[str, Any]:
    """Run a pod on the node."""
    there: dict[str, Any] = {
        "tolerations": [{"key": worker.TAINT}],
        "nodeSelector": {"kubernetes.io/hostname": worker.NAME},
    }
    return space.run(name, **there, **parts)


def test_the_daemonset_installs_the_proxy_and_removes_it_without_a_trace(
    node: Worker, space: Space, overlay: Overlay
) -> None:
    space.push("installed", variables={"GREETING": "hello"})
    before_it = identity(run(space, "ordinary"))
    root, files = node.machine.snapshot(), node.kubelets_files()
    since = transitions(node.node())

    overlay.apply()
    installed = overlay.log().splitlines()
    greet = ["sh", "-c", 'echo "$GREETING"; exec sleep 2147483647']
    run(space, "annotated", environment="test/installed", command=greet, runtimeClassName="flox")
    checked = node.machine.run(COMMAND, "check")
    changed = difference(files, node.kubelets_files())

    overlay.apply("uninstall")
    removed = overlay.log().splitlines()

    assert READY in installed
    assert installed[-1] == "installer: cri-proxy is installed on this node"
    assert "uses the proxy" in checked
    assert set(changed) == {"config.yaml", "instance-config.yaml"}
    assert space.kubectl("logs", "annotated") == "hello\n"
    assert READY in removed
    assert removed[-1] == "installer: cri-proxy is uninstalled from this node"
    assert transitions(node.node()) == since
    assert identity(space.ready("ordinary")) == before_it
    left = difference(root, node.machine.snapshot())
    assert {path for path in left if not path.startswith(KEPT)} == set()
    assert difference(files, node.kubelets_files()) == {}


def test_pods_and_node_survive_other_settings_and_an_upgrade_of_the_image(
    node: Worker, space: Space, overlay: Overlay, newer_image: str
) -> None:
    space.push("upgraded")
    overlay.apply()
    run(space, "ordinary")
    run(space, "annotated", environment="test/upgraded", runtimeClassName="flox")
    before = {name: identity(space.ready(name)) for name in ("annotated", "ordinary")}
    since, kubelet = transitions(node.node()), main_pid(node, "kubelet.service")
    daemons, releases = [main_pid(node, "cri-proxy.service")], [release(node)]

    overlay.apply(log={"level": "debug"})
    daemons.append(main_pid(node, "cri-proxy.service"))
    releases.append(release(node))
    output = [overlay.log()]

    overlay.apply(tag=newer_image)
    daemons.append(main_pid(node, "cri-proxy.service"))
    releases.append(release(node))
    output.append(overlay.log())
    run(space, "later", environment="test/upgraded", runtimeClassName="flox")

    assert all(READY in each.splitlines() for each in output), output
    assert len(set(daemons)) == 3
    assert releases[0] == releases[1] != releases[2]
    assert 'level = "debug"' in node.machine.read("/etc/cri-proxy/config.toml")
    assert main_pid(node, "kubelet.service") == kubelet
    assert {name: identity(space.ready(name)) for name in before} == before
    assert transitions(node.node()) == since


def test_installing_the_installed_release_again_succeeds(node: Worker, overlay: Overlay) -> None:
    """The kubelet keeps running, and does not report a node that stays Ready for minutes."""
    overlay.apply()
    daemon = main_pid(node, "cri-proxy.service")

    output = node.machine.run(COMMAND, "install", is_checked=True).splitlines()

    assert READY in output
    assert output[-1] == "nothing had to be changed"
    assert main_pid(node, "cri-proxy.service") == daemon


def test_a_node_that_is_not_ready_through_the_proxy_is_restored(node: Worker, space: Space) -> None:
    """With settings for a runtime without a network, kubelet is healthy but its node is not."""
    before_it = identity(run(space, "ordinary"))
    machine = node.machine
    machine.write("/etc/other.toml", OTHER_RUNTIME)
    other = ("--unit=other", "--property=Type=notify", "--property=Delegate=yes")
    machine.run("systemd-run", *other, "containerd", "--config", "/etc/other.toml", is_checked=True)
    machine.write(
        "/etc/cri-proxy/config.toml",
        toml_of({"runtime": {"endpoint": "/run/other/containerd.sock"}}),
    )
    root, files = machine.snapshot(), node.kubelets_files()

    try:
        output = machine.run("/testbed/tree/bin/cri-proxy", "install", "--within", "20")
    finally:
        machine.run("systemctl", "stop", "other")
    left = difference(root, machine.snapshot())
    ready = space.cluster.kubectl.until(
        ["node", worker.NAME],
        lambda node: condition(node, "Ready") == "True",
        seconds=START_SECONDS,
    )

    assert f"not true after 20 seconds: {READY}" in output
    assert output.endswith("; the node is as it was before\n")
    assert ready["status"]["nodeInfo"]["containerRuntimeVersion"]
    assert {path for path in left if not path.startswith(KEPT)} == set()
    assert difference(files, node.kubelets_files()) == {}
    assert identity(space.ready("ordinary")) == before_it


def test_installer_has_no_permissions_in_the_cluster(kubectl: Kubectl) -> None:
    user = "--as=system:serviceaccount:cri-proxy:installer"

    may = kubectl("auth", "can-i", "--list", user, "--no-headers")

    granted = {line.split()[0] for line in may.splitlines() if not line.startswith(" ")}
    own = {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
    }
    assert granted == own | {"selfsubjectrulesreviews.authorization.k8s.io"}


def main_pid(node: Worker, unit: str) -> str:
    return node.machine.run("systemctl", "show", "--value", "--property=MainPID", unit).strip()


def release(node: Worker) -> str:
    return node.machine.run("readlink", "/opt/cri-proxy/current").strip()
