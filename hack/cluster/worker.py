"""A node in a machine of its own: systemd, containerd and kubelet as kubeadm sets them up.

    kube-apiserver <── bridge ──> eth0 ┌───────────── machine ─────────────┐
                                       │ systemd ─ kubelet.service         │
                                       │         └ containerd.service      │
                                       └───────────────────────────────────┘
    <directory>/machine/                see `machine`
                disk/kubelet, disk/containerd, disk/images

It has nothing of cri-proxy: it is the node that the installer finds. kubelet is the real one, with
the files of `kubeadm join` in Kubernetes 1.34; it requests its own certificate from the cluster and
writes /etc/kubernetes/kubelet.conf itself. The node has a taint that keeps other pods away, and
reports at kubelet's default interval.

Differences to a real node: control groups are managed by kubelet instead of systemd (which needs
cgroup v2), machine-wide sysctls are files with the values that kubelet expects, and the node's pods
have no network beyond it.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hack.cluster import programs
from hack.cluster.cluster import Cluster
from hack.cluster.kubectl import condition
from hack.cluster.kubelet import SYSCTLS
from hack.testbed import containerd, images, machine, network

NAME: Final = "machine"
TAINT: Final = "testbed"
"""The taint that pods for this node tolerate."""

_PACKAGES: Final = ("systemd", "systemd-sysv")
_PROGRAMS: Final = {
    "/usr/bin/containerd": "containerd",
    "/usr/bin/containerd-shim-runc-v2": "containerd-shim-runc-v2",
    "/usr/bin/ctr": "ctr",
    "/usr/sbin/runc": "runc",
}
_PODS: Final = network.Network(bridge="cni0", subnet="10.191.0.0/24")
_JOIN_SECONDS: Final = 180.0
_IMPORT_SECONDS: Final = 180.0

# The names of the files that kubeadm writes, and of the unit in Debian's package of kubelet.
_UNIT: Final = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
_DROPIN: Final = """\
# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generates at runtime, populating the
# KUBELET_KUBEADM_ARGS variable dynamically
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS \
$KUBELET_EXTRA_ARGS
"""
_RUNTIME: Final = "unix:///run/containerd/containerd.sock"
_INSTANCE: Final = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
containerRuntimeEndpoint: {_RUNTIME}
kind: KubeletConfiguration
"""
_CONFIG: Final = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
cgroupDriver: cgroupfs
clusterDNS:
- 10.160.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: {_RUNTIME}
evictionHard:
  memory.available: 50Mi
  nodefs.available: 0.5%
failCgroupV1: false
failSwapOn: false
healthzBindAddress: 127.0.0.1
healthzPort: 10248
imageGCHighThresholdPercent: 100
kind: KubeletConfiguration
makeIPTablesUtilChains: false
oomScoreAdj: 0
protectKernelDefaults: true
registerWithTaints:
- effect: NoSchedule
  key: {TAINT}
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
tlsCertFile: /var/lib/kubelet/pki/serving.crt
tlsPrivateKeyFile: /var/lib/kubelet/pki/serving.key
"""
_CONTAINERD: Final = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
"""
_CONTAINERD_UNIT: Final = """\
[Unit]
Description=containerd container runtime

[Service]
Type=notify
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
Restart=always

[Install]
WantedBy=multi-user.target
"""
_PREPARE_UNIT: Final = """\
[Unit]
Description=Set up devices, mounts and sysctls that a container lacks
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/testbed/prepare
"""
_PREPARE: Final = """\
#!/bin/sh
set -e
test -e /dev/kmsg || mknod /dev/kmsg c 1 11 # where kubelet reads out-of-memory kills
mount --make-shared /
cd /usr/lib/testbed/sysctl
for each in $(find . -type f); do
  mount --bind "$each" "/proc/sys/$each"
done
"""
# As kubeadm binds them: who may request a node's certificate and get it approved automatically.
_BINDINGS: Final = {
    "kubelet-bootstrap": ("system:node-bootstrapper", "system:bootstrappers"),
    "node-autoapprove-bootstrap": (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "system:bootstrappers",
    ),
    "node-autoapprove-certificate-rotation": (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "system:nodes",
    ),
}


class Worker:
    """A node that is Ready while the context lasts, and then leaves the cluster."""

    def __init__(self, cluster: Cluster, directory: Path, mounts: Mapping[str, Path]) -> None:
        """Write everything below `directory`; `mounts` are those of the machine."""
        self._cluster: Final = cluster
        self._address: Final = str(ipaddress.ip_network(cluster.runtime.traces.network.subnet)[250])
        self._disk: Final = directory / "disk"
        for name in ("kubelet", "containerd", "images"):
            (self._disk / name).mkdir(parents=True)
        self.machine: Final = machine.Machine(
            directory / "machine",
            machine.debian("bookworm", packages=_PACKAGES),
            {**_installed(), "/testbed/images": self._disk / "images", **mounts},
            disks={
                "/var/lib/kubelet": self._disk / "kubelet",
                "/var/lib/containerd": self._disk / "containerd",
            },
        )

    def __enter__(self) -> Self:
        self.machine.__enter__()
        try:
            self._write()
            self.machine.boot()
            self._plug_in()
            self.import_images(images.of_testbed())
            self._join()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.machine.__exit__(kind, error, traceback)
        self._cluster.kubectl("delete", "node", NAME, "--ignore-not-found")

    def import_images(self, wanted: Sequence[images.Image]) -> None:
        """Import images into its containerd."""
        for image in wanted:
            tar = self._disk / "images" / "image.tar"
            images.write(image, tar)
            command = (
                "ctr",
                "--namespace",
                "k8s.io",
                "images",
                "import",
                "/testbed/images/image.tar",
            )
            self.machine.run(*command, is_checked=True)
            tar.unlink()

    def node(self) -> Any:
        """Return the node object from the API server."""
        return self._cluster.kubectl.get("node", NAME)

    def kubelets_files(self) -> machine.Snapshot:
        """Return a snapshot of kubelet's configuration files on its disk, which the root lacks."""
        names = ("config.yaml", "instance-config.yaml", "kubeadm-flags.env")
        return {name: machine.noted(self._disk / "kubelet" / name) for name in names}

    def _write(self) -> None:
        authority, server = self._cluster.plane.authority, self._cluster.plane.server
        login = authority.kubeconfig(
            "bootstrap", "system:bootstrap:machine", server, ["system:bootstrappers"]
        )
        certificate, key = authority.sign("machine", "machine", hosts=[NAME, self._address])
        write = self.machine.write
        write("/etc/kubernetes/bootstrap-kubelet.conf", login.read_text(), mode=0o600)
        write("/etc/hostname", f"{NAME}\n")
        write("/etc/hosts", f"127.0.0.1 localhost\n{self._address} {NAME}\n")
        write("/etc/kubernetes/pki/ca.crt", authority.certificate.read_text())
        (self.machine.root / "etc/kubernetes/manifests").mkdir()
        write("/usr/lib/systemd/system/kubelet.service", _UNIT)
        write("/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", _DROPIN)
        write("/usr/lib/systemd/system/containerd.service", _CONTAINERD_UNIT)
        write("/usr/lib/systemd/system/prepare.service", _PREPARE_UNIT)
        write("/usr/lib/testbed/prepare", _PREPARE, mode=0o755)
        snapshotter = "overlayfs" if containerd.can_overlay(self._disk) else "native"
        configuration = _CONTAINERD.format(sandbox_image=images.PAUSE, snapshotter=snapshotter)
        write("/etc/containerd/config.toml", configuration)
        write("/etc/default/kubelet", f"KUBELET_EXTRA_ARGS=--node-ip={self._address}\n")
        write("/etc/cni/net.d/10-pods.conflist", network.conflist(_PODS, Path("/run/cni")))
        for path, value in SYSCTLS.items():
            write(f"/usr/lib/testbed/sysctl/{path}", f"{value}\n")
        kubelet = self._disk / "kubelet"
        (kubelet / "pki").mkdir()
        shutil.copy(certificate, kubelet / "pki/serving.crt")
        shutil.copy(key, kubelet / "pki/serving.key")
        (kubelet / "config.yaml").write_text(_CONFIG)
        (kubelet / "instance-config.yaml").write_text(_INSTANCE)
        (kubelet / "kubeadm-flags.env").write_text(
            f'KUBELET_KUBEADM_ARGS="--pod-infra-container-image={images.PAUSE}"\n'
        )
        wants = self.machine.root / "etc/systemd/system/multi-user.target.wants"
        for unit in ("containerd", "prepare"):  # kubelet is started once there is a network
            (wants / f"{unit}.service").symlink_to(f"/usr/lib/systemd/system/{unit}.service")

    def _plug_in(self) -> None:
        """Connect the machine to the cluster's bridge with a veth pair."""
        bridge = self._cluster.runtime.traces.network.bridge
        cable, pid = f"{bridge}w", str(self.machine.pid)
        inside = ["nsenter", "--net", f"--target={pid}", "ip"]
        for argv in (
            ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", pid],
            ["ip", "link", "set", cable, "master", bridge, "up"],
            [*inside, "address", "add", f"{self._address}/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
        ):
            subprocess.run(argv, check=True, capture_output=True)

    def _join(self) -> None:
        kubectl = self._cluster.kubectl
        kubectl.apply(*(_binding(name, *both) for name, both in _BINDINGS.items()))
        self.machine.run("systemctl", "enable", "--now", "kubelet.service", is_checked=True)
        try:
            kubectl.until(
                ["node", NAME],
                lambda node: condition(node, "Ready") == "True",
                seconds=_JOIN_SECONDS,
            )
        except AssertionError as error:
            error.add_note(self.machine.run("journalctl", "--no-pager", "--lines=80"))
            raise


def _installed() -> dict[str, Path]:
    """Return this host's containerd and related programs, by the paths that a package uses."""
    found = {place: Path(str(shutil.which(name))) for place, name in _PROGRAMS.items()}
    found["/usr/bin/kubelet"] = programs.path_of("kubelet")
    plugins = containerd.cni_plugins()
    assert plugins is not None, "the cluster's own containerd has them"
    found["/opt/cni/bin"] = plugins
    return found


def _binding(name: str, role: str, group: str) -> dict[str, Any]:
    api = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": api, "kind": "Group", "name": group}],
    }
