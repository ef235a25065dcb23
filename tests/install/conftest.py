"""Nodes with a real systemd, for installing the release."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.testbed import machine
from tests.node.conftest import NODES

REPOSITORY = Path(__file__).parents[2]
CONTAINERD_CONFIG = """\
version = 2
root = "/run/containerd-root"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"""
CONTAINERD = """\
[Service]
Type=notify
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
"""


def missing(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def node(tree: Path, newer: Path, tmp_path: Path) -> Iterator[machine.Machine]:
    """Yield a booted node with containerd and a kubelet as kubeadm sets it up."""
    if os.geteuid() != 0:
        missing("a test machine needs root")
    containerd = shutil.which("containerd")
    if containerd is None or shutil.which("debootstrap") is None:
        missing("containerd or debootstrap is missing: run hack/prerequisites.sh install")
    base = machine.debian("bookworm", packages=("systemd", "systemd-sysv"))
    mounts = {
        "/testbed/tree": tree,
        "/testbed/newer": newer,
        "/usr/bin/containerd": Path(str(containerd)),
    }
    with machine.Machine(tmp_path / "node", base, mounts) as made:
        for path, text in NODES["kubeadm-flags"].items():
            made.write(path, text)
        made.write("/etc/containerd/config.toml", CONTAINERD_CONFIG)
        made.write("/usr/lib/systemd/system/containerd.service", CONTAINERD)
        stand_in = REPOSITORY / "hack/testbed/stand_in_kubelet.py"
        made.write("/usr/bin/kubelet", stand_in.read_text(), mode=0o755)
        wants = made.root / "etc/systemd/system/multi-user.target.wants"
        for unit in ("containerd.service", "kubelet.service"):
            (wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")
        made.boot()
        yield made
