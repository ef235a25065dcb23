"""The real kubelet of this host's node, pointed at a CRI socket.

    <directory>/            kubelet's root: pods/, volumes, plugins; a shared mount, as on a node
    <beside>/kubelet.json   its configuration
             kubelet.log    its log
             own/           what it would have written elsewhere on this host

Some of what kubelet does cannot be configured: links in /var/log/containers, a socket below
/var/lib/kubelet, sysctls of the whole machine. So it runs in a mount namespace of its own, in which
these places are ours and the sysctls are files that say already what it wants. What it mounts
below its root, the volumes of pods, it shares with the runtime.

The control groups of its pods are below one that has the testbed's name, by which they are found
and removed whatever happens.
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
"""What kubelet wants the sysctls of its whole machine to say."""


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
        """Write certificates and configuration, and lay what its namespace is made of."""
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
            "clusterDNS": [address],  # nobody answers there; without one every pod has a warning
            "podLogsDir": str(self._own / "pods"),
            "volumePluginDir": str(self._own / "plugins"),
            # A full disk of the machine is not this node's business.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0.5%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "2s",
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        }

    @property
    def log(self) -> Path:
        """All that it has written."""
        return self._beside / "kubelet.log"

    @property
    def _own(self) -> Path:
        return self._beside / "own"

    def configure(self, **settings: Any) -> None:
        """Change its configuration from the next start on; None takes a setting back."""
        for name, value in settings.items():
            if value is None:
                self._settings.pop(name, None)
            else:
                self._settings[name] = value

    def launch(self) -> processes.Program:
        """Lay its ground and its configuration, as it is by now, and start it."""
        self._prepare()
        (self._beside / "kubelet.json").write_text(json.dumps(self._settings, indent=2))
        argv = [str(programs.path_of("kubelet")), *argv_of(self._flags)]
        return processes.Program(
            ["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", self._script(argv)],
            log=self.log,
        )

    def _prepare(self) -> None:
        """Lay its directories, and the control group whose children its pods' will be."""
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
        """Return the shell script that makes its namespace, and becomes it."""
        places = {"lib": "/var/lib", "log": "/var/log"}
        binds = [
            *((self._own / name, place) for name, place in places.items()),
            *((self._own / "sysctl" / each, f"/proc/sys/{each}") for each in SYSCTLS),
        ]
        lines = [f"mount --make-private {place}" for place in ("/", "/proc")]
        lines += [f"mount --bind {shlex.quote(str(source))} {place}" for source, place in binds]
        return "\n".join([*lines, f"exec {shlex.join(argv)}"])

    def is_ready(self) -> bool:
        """Whether it is healthy; the node is Ready a little later."""
        url = f"http://127.0.0.1:{self._settings['healthzPort']}/healthz"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10):
                return True
        except OSError:
            return False
