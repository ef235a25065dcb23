"""Nodes as their makers leave them, as far as kubelet's configuration goes, in a directory."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from cri_proxy.node.root import Root

CONTAINERD = "unix:///run/containerd/containerd.sock"
PROXY = "unix:///run/cri-proxy/cri-proxy.sock"
UNIT = "/usr/lib/systemd/system/kubelet.service"
DROPIN = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"

_KUBEADM = {
    UNIT: "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\n",
    DROPIN: """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that kubeadm init and join generate at runtime.
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS \\
    $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
""",
}

NODES: Mapping[str, Mapping[str, str]] = {
    "kubeadm-flags": {
        **_KUBEADM,
        "/var/lib/kubelet/kubeadm-flags.env": (
            f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint={CONTAINERD} '
            '--pod-infra-container-image=registry.k8s.io/pause:3.9"\n'
        ),
        "/var/lib/kubelet/config.yaml": "kind: KubeletConfiguration\nhealthzPort: 10248\n",
    },
    "kubeadm-instance": {
        **_KUBEADM,
        "/var/lib/kubelet/kubeadm-flags.env": 'KUBELET_KUBEADM_ARGS=""\n',
        "/var/lib/kubelet/config.yaml": (
            f"cgroupDriver: systemd\ncontainerRuntimeEndpoint: {CONTAINERD}\nhealthzPort: 10248\n"
        ),
        "/var/lib/kubelet/instance-config.yaml": (
            "apiVersion: kubelet.config.k8s.io/v1beta1\n"
            f'containerRuntimeEndpoint: "{CONTAINERD}"\nkind: KubeletConfiguration\n'
        ),
    },
    "eks": {
        "/etc/systemd/system/kubelet.service": """\
[Service]
EnvironmentFile=/etc/eks/kubelet/environment
ExecStart=/usr/bin/kubelet $NODEADM_KUBELET_ARGS
""",
        "/etc/eks/kubelet/environment": (
            'NODEADM_KUBELET_ARGS="--config=/etc/kubernetes/kubelet/config.json '
            '--hostname-override=ip-10-0-0-1"\n'
        ),
        "/etc/kubernetes/kubelet/config.json": (
            '{\n    "kind": "KubeletConfiguration",\n    "featureGates": {"A": true},\n'
            f'    "containerRuntimeEndpoint": "{CONTAINERD}"\n}}\n'
        ),
    },
    "drop-in-directory": {
        "/etc/systemd/system/kubelet.service": """\
[Service]
ExecStart=/usr/bin/kubelet --config /etc/kubelet.yaml --config-dir=/etc/kubelet.d
""",
        "/etc/kubelet.yaml": f"containerRuntimeEndpoint: {CONTAINERD}\n",
        "/etc/kubelet.d/10-other.conf": "maxPods: 42\n",
    },
    "extra-args": {
        UNIT: """\
[Service]
EnvironmentFile=-/etc/sysconfig/kubelet
ExecStart=/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf $KUBELET_EXTRA_ARGS
""",
        "/etc/sysconfig/kubelet": 'KUBELET_EXTRA_ARGS="--v=2"\n',
    },
    "vendor-unit": {
        UNIT: f"""\
[Service]
ExecStart=/usr/bin/kubelet --container-runtime-endpoint={CONTAINERD} --v=2
""",
    },
    "crio": {
        "/etc/systemd/system/kubelet.service": """\
[Service]
ExecStart=/usr/bin/kubelet --config=/etc/kubernetes/kubelet.conf --container-runtime-endpoint \
/var/run/crio/crio.sock
""",
        "/etc/kubernetes/kubelet.conf": "kind: KubeletConfiguration\n",
    },
    "k3s": {
        "/etc/systemd/system/k3s.service": "[Service]\nExecStart=/usr/local/bin/k3s server\n",
        "/etc/rancher/k3s/config.yaml": "write-kubeconfig-mode: '0644'\n",
    },
}

Make = Callable[[str], Root]


def snapshot(root: Root) -> dict[str, tuple[object, ...]]:
    """Return all that there is: modes, owners, times of files, and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.directory.rglob("*")):
        status = path.lstat()
        kept: tuple[object, ...] = (status.st_mode, status.st_uid, status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            kept = (*kept, os.fspath(path.readlink()))
        elif stat.S_ISREG(status.st_mode):
            kept = (*kept, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        found[str(path.relative_to(root.directory))] = kept
    return found


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a node of a kind."""

    def made(kind: str) -> Root:
        directory = tmp_path / kind
        (directory / "var/lib").mkdir(parents=True)
        for path, text in NODES[kind].items():
            file = directory / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return Root(directory)

    return made


class RunningRoot(Root):
    """A directory that is treated as the file system of the running node."""

    is_running = True


class Systemctl:
    """A stand-in for `systemctl` on PATH: it records its calls and which units are active."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._calls: Final = directory / "calls"
        (directory / "units").mkdir(parents=True)
        self._calls.touch()
        self.state("running")
        program = directory / "systemctl"
        program.write_text(f"""\
#!/bin/sh
cd {directory} && shift # --no-ask-password
echo "$*" >>calls
verb=$1 && shift
case $verb in
is-system-running) cat state ;;
is-active) if [ -e "units/$1" ]; then echo active; else echo inactive && exit 3; fi ;;
start | restart) touch "units/$1" ;;
stop) for unit; do rm -f "units/$unit"; done ;;
esac
if [ "$(cat refused)" = "$verb" ]; then echo "Job failed." >&2 && exit 1; fi
""")
        program.chmod(0o755)
        self.refuse("")

    @property
    def calls(self) -> list[str]:
        """The arguments of all calls so far."""
        return self._calls.read_text().splitlines()

    def forget_calls(self) -> None:
        """Start a new list of calls."""
        self._calls.write_text("")

    def state(self, state: str) -> None:
        """Let the system be in this state."""
        (self.directory / "state").write_text(state)

    def activate(self, unit: str) -> None:
        """Let a unit be active."""
        (self.directory / "units" / unit).touch()

    def refuse(self, verb: str) -> None:
        """Let calls of this verb fail, and no other."""
        (self.directory / "refused").write_text(verb)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    """The systemctl that this test's systemd is controlled with."""
    made = Systemctl(tmp_path / "systemctl")
    monkeypatch.setenv("PATH", f"{made.directory}:{os.environ['PATH']}")
    return made
