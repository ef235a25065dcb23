"""The installer on a cluster: its image, DaemonSet and ConfigMap are the real ones.

The node is directories of the test's, and cri-proxy a script that notes how it is called: on this
host, the real one would repoint the host's own kubelet.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import installer
from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import Kubectl
from hack.testbed import waiting

MANIFESTS = Path(__file__).parents[2] / "manifests"
PROGRAM = b'#!/bin/sh\necho "$*" >>/host/etc/calls\n'


@pytest.fixture
def image(cluster: Cluster, tmp_path: Path) -> str:
    """The installer's image with that script in it, on the node."""
    file = tmp_path / f"cri-proxy-1.2.3-linux-{platform.machine()}.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        member = tarfile.TarInfo("cri-proxy-1.2.3/bin/cri-proxy")
        member.size, member.mode = len(PROGRAM), 0o755
        tar.addfile(member, io.BytesIO(PROGRAM))
    made = installer.image_of(file)
    cluster.runtime.import_images([made])
    return made.name


@pytest.fixture
def node(kubectl: Kubectl, tmp_path: Path) -> Iterator[Path]:
    """The node's /opt and /etc; the installer is gone with them."""
    for name in ("opt", "etc"):
        (tmp_path / name).mkdir()
    yield tmp_path
    kubectl("delete", "namespace", "cri-proxy", "--ignore-not-found", seconds=180)


def apply(kubectl: Kubectl, overlay: Path, node: Path, image: str) -> None:
    """Apply an overlay, with the test's directories for the node, and wait for its rollout."""
    documents = list(yaml.safe_load_all(kubectl("kustomize", str(overlay))))
    for each in documents:
        if each["kind"] == "DaemonSet":
            spec = each["spec"]["template"]["spec"]
            _replace_node(spec, node)
            spec["containers"][0]["image"] = image
    kubectl.apply(*documents)
    rollout = ["rollout", "status", "daemonset/installer", "--timeout=120s"]
    kubectl.within("cri-proxy")(*rollout, seconds=180)


def _replace_node(spec: dict[str, Any], node: Path) -> None:
    for volume in spec["volumes"]:
        if "hostPath" in volume:
            volume["hostPath"]["path"] = f"{node}{volume['hostPath']['path']}"
    (container,) = spec["containers"]
    container["env"] = [{"name": "ON_NODE", "value": ""}]
    container["volumeMounts"].append({"name": "opt", "mountPath": "/opt"})


def test_installer_installs_follows_its_settings_and_uninstalls(
    kubectl: Kubectl, image: str, node: Path, tmp_path: Path
) -> None:
    apply(kubectl, MANIFESTS / "generic", node, image)
    first = (node / "etc/calls").read_text()
    settings = (node / "etc/cri-proxy/config.toml").read_text()

    other = tmp_path / "overlay"
    other.mkdir()
    (other / "prewarm.txt").write_text("acme/web\n")
    (other / "kustomization.yaml").write_text(_overlay(other))
    apply(kubectl, other, node, image)
    second = (node / "etc/calls").read_text()
    prewarmed = (node / "etc/cri-proxy/prewarm.d/cluster").read_text()

    apply(kubectl, MANIFESTS / "uninstall", node, image)
    waiting.until(
        lambda: (node / "etc/calls").read_text().endswith("uninstall\n"), what="the uninstallation"
    )

    assert settings == (MANIFESTS / "base/config.toml").read_text()
    assert first == "install\n"
    assert (second, prewarmed) == ("install\ninstall\n", "acme/web\n")
    assert list((node / "opt").iterdir()) == []
    assert [each.name for each in (node / "etc").iterdir()] == ["calls"]


def test_installer_may_do_nothing_in_the_cluster(kubectl: Kubectl) -> None:
    user = "--as=system:serviceaccount:cri-proxy:installer"

    may = kubectl("auth", "can-i", "--list", user, "--no-headers")

    granted = {line.split()[0] for line in may.splitlines() if not line.startswith(" ")}
    own = {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
    }
    assert granted == own | {"selfsubjectrulesreviews.authorization.k8s.io"}


def _overlay(place: Path) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(MANIFESTS / "generic", place)],
            "namespace": "cri-proxy",
            "configMapGenerator": [
                {"name": "cri-proxy", "behavior": "merge", "files": ["prewarm.txt"]}
            ],
        }
    )
