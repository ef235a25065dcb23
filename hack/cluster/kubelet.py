"""The real kubelet of this host's node, connected to a CRI socket.

    <directory>/            kubelet's root: pods/, volumes, plugins; a shared mount, as on a node
    <beside>/kubelet.json   its configuration
             kubelet.log    its log
             own/           files that it would have written elsewhere on this host

Some effects of kubelet cannot be configured: links in /var/log/containers, a socket below
/var/lib/kubelet, sysctls of the whole machine. So it runs in a mount namespace where these are
private directories, and files that already have the expected values in place of the sysctls. Its
mounts below its root, the volumes of pods, are shared with the runtime.

The control groups of its pods are below one with the testbed's name, so that they are always found
and removed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Final

from hack.cluster import programs
from hack.cluster.certificates import Authority
from hack.cluster.plane import argv_of, free_port
from hack.testbed import cgroups, images, processes
from hack.testbed.daemons import Daemon

# kubelet's own (k8s.io/kubernetes/pkg/kubelet/cm, k8s.io/component-helpers/node/util/sysctl)
SYSCTLS: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""The values of machine-wide sysctls that kubelet expects."""


class Kubelet(Daemon):
    """One node's kubelet: `start`, `restart` and `stop` leave its pods alone."""

    title = "kubelet"

    def __init__(
        self,
        directory: Path,
        *,
        authority: Authority,
        server: str,
        address: str,
        name: str,
        cgroup: str,
        endpoint: Path,
    ) -> None:
        """Write certificates and configuration, and prepare the files of its namespace."""
        self.directory: Final = directory
        self.name: Final = name
        self._beside: Final = directory.parent
        self._address: Final = address
        self._port: Final = free_port(address)
        self._cgroup: Final = cgroup
        user = f"system:node:{name}"
        certificate, key = authority.sign("kubelet", user, hosts=[name, address])
        kubeconfig = authority.kubeconfig("kubelet-client", user, server, ["system:nodes"])
        self._flags: Final[dict[str, str | Path]] = {
            "config": self._beside / "kubelet.json",
            "kubeconfig": kubeconfig,
            "root_dir": directory,
            "cert_dir": authority.directory,
            "hostname_override": name,
            "node_ip": address,
            "node_labels": "flox.dev/enabled=true",
            "pod_infra_container_image": images.PAUSE,
        }
        self._settings: Final[dict[str, Any]] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{endpoint}",
            "address": address,
            "port": self._port,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": free_port(),
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "authentication": {
                "x509": {"clientCAFile": str(authority.certificate)},
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "protectKernelDefaults": True,
            "oomScoreAdj": 0,
            "resolvConf": "/etc/resolv.conf",
            "clusterDNS": [address],  # no DNS server; without an entry, every pod gets a warning
            "podLogsDir": str(self._own / "pods"),
            "volumePluginDir": str(self._own / "plugins"),
            # A full disk of the machine must not evict pods.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0.5%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "2s",
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        }

    @property
    def log(self) -> Path:
        """Its log."""
        return self._beside / "kubelet.log"

    @property
    def _own(self) -> Path:
        return self._beside / "own"

    def configure(self, **settings: Any) -> None:
        """Change its configuration for the next start; None removes a setting."""
        for name, value in settings.items():
            if value is None:
                self._settings.pop(name, None)
            else:
                self._settings[name] = value

    def launch(self) -> processes.Program:
        """Prepare its directories, write the current configuration, and start it."""
        self._prepare()
        (self._beside / "kubelet.json").write_text(json.dumps(self._settings, indent=2))
        argv = [str(programs.path_of("kubelet")), *argv_of(self._flags)]
        return processes.Program(
            ["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", self._script(argv)],
            log=self.log,
        )

    def _prepare(self) -> None:
        """Create its directories, and the parent of its pods' control groups."""
        for name in ("lib", "log/containers", "pods", "plugins"):
            (self._own / name).mkdir(parents=True, exist_ok=True)
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            subprocess.run(["mount", "--bind", self.directory, self.directory], check=True)
            subprocess.run(["mount", "--make-shared", self.directory], check=True)
        for path, value in SYSCTLS.items():
            file = self._own / "sysctl" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        cgroups.create(self._cgroup)

    def _script(self, argv: list[str]) -> str:
        """Return the shell script that sets up its namespace and executes kubelet."""
        places = {"lib": "/var/lib", "log": "/var/log"}
        binds = [
            *((self._own / name, place) for name, place in places.items()),
            *((self._own / "sysctl" / each, f"/proc/sys/{each}") for each in SYSCTLS),
        ]
        lines = [f"mount --make-private {place}" for place in ("/", "/proc")]
        lines += [f"mount --bind {shlex.quote(str(source))} {place}" for source, place in binds]
        return "\n".join([*lines, f"exec {shlex.join(argv)}"])

    def is_ready(self) -> bool:
        """Return whether it is healthy; the node becomes Ready a little later."""
        url = f"http://127.0.0.1:{self._settings['healthzPort']}/healthz"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10):
                return True
        except OSError:
            return False
