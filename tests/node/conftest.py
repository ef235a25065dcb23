"""Nodes as their makers leave them, as far as kubelet's configuration goes, in a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

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
