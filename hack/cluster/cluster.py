"""A Kubernetes cluster of one node on this host, made of real components.

    kubectl ──> kube-apiserver ── etcd
                  │       └────── scheduler, controller manager
                kubelet ──> cri-proxy ──> containerd (private) ──> runc
                               ├──> FloxHub (local)
                               └──> binary cache (local, signed)

The containerd is the testbed's, which also cleans up: all files are below its directory, all
control groups below its own, and its guard sweeps even if this process is killed. There is no
kube-proxy and no DNS: pods reach each other and this host by address. A second node, with its own
systemd and without cri-proxy, joins with `worker`.

With `is_direct`, kubelet uses containerd directly, for comparison.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final, Self

from hack.cluster import programs
from hack.cluster.kubectl import Kubectl, condition
from hack.cluster.kubelet import Kubelet
from hack.cluster.plane import ControlPlane
from hack.testbed import containerd, environments, floxhub, web
from hack.testbed.proxy import Proxy

NODE: Final = "node"
_READY_SECONDS: Final = 180.0


def lacks() -> list[str]:
    """Return what this machine lacks for a cluster, as phrases for a message."""
    return [*containerd.lacks(), *(f"the program {name}" for name in programs.missing())]


class Cluster:
    """One cluster, from `start` (or `with`) to `stop`."""

    def __init__(self, *, is_direct: bool = False) -> None:
        self.runtime: Final = containerd.Containerd()
        self.is_direct: Final = is_direct
        self.hub: floxhub.FloxHub
        self.published: environments.Published
        self.cache: web.FileServer
        self.proxy: Proxy
        self.plane: ControlPlane
        self.kubelet: Kubelet
        self._stack: Final = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def directory(self) -> Path:
        """The directory of all its files."""
        return self.runtime.directory / "cluster"

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's kubectl, in the namespace `default`."""
        return self.plane.kubectl

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of the proxy besides those that keep it to its directory."""
        return {
            "floxhub": {"url": self.hub.url, "git_url": self.hub.git_url, "remember_seconds": 0},
            "store": {
                "caches": [self.cache.url],
                "public_keys": [self.published.publisher.public_key],
            },
            "activation": {"shell": str(self.published.bash.path)},
        }

    def start(self) -> None:
        """Start everything, and wait until the node is Ready and pods can be created."""
        if missing := lacks():
            raise RuntimeError(
                f"a cluster cannot run here, it lacks {'; '.join(missing)}: "
                "run hack/prerequisites.sh cluster"
            )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop and remove everything."""
        self._stack.close()

    def node(self) -> Any:
        """Return the node object from the API server."""
        return self.kubectl.get("node", NODE)

    def _start(self) -> None:
        self._stack.enter_context(self.runtime)
        address = self.runtime.traces.network.gateway
        self.plane = ControlPlane(self.directory / "plane", address)
        self._stack.callback(self.plane.stop)
        self.plane.start()
        if not self.is_direct:
            self._start_proxy()
        self.kubelet = Kubelet(
            self.directory / "kubelet",
            authority=self.plane.authority,
            server=self.plane.server,
            address=address,
            name=NODE,
            cgroup=self.runtime.traces.cgroup,
            endpoint=self.runtime.socket if self.is_direct else self.proxy.socket,
        )
        self._stack.callback(self.kubelet.stop)
        self.kubelet.start()
        self.kubectl.until(
            ["node", NODE], lambda node: condition(node, "Ready") == "True", seconds=_READY_SECONDS
        )
        self.kubectl.until(["serviceaccount", "default"], bool, seconds=_READY_SECONDS)

    def _start_proxy(self) -> None:
        address = self.runtime.traces.network.gateway
        self.published = environments.published(self.directory / "cache")
        self.cache = self._stack.enter_context(
            web.FileServer(self.published.publisher.directory, address=address)
        )
        self.hub = self._stack.enter_context(
            floxhub.FloxHub(self.directory / "floxhub", address=address)
        )
        self.proxy = self._stack.enter_context(
            Proxy(
                self.directory / "proxy",
                self.runtime.socket,
                self.settings,
                kubelet_root=self.directory / "kubelet",
            )
        )
