"""The control plane: etcd, API server, scheduler, controller manager, on addresses of this host.

    <directory>/certificates/    see `certificates`
    <directory>/etcd/            the state of the cluster
    <directory>/*.log            a log for each program

All listen on 127.0.0.1 or on the private address under which pods reach this host.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hack.cluster import programs
from hack.cluster.certificates import Authority
from hack.cluster.kubectl import Kubectl
from hack.testbed import processes

_SERVICES: Final = "10.160.0.0/16"  # of Services; not routed, without kube-proxy
_KUBERNETES: Final = "10.160.0.1"
_START_SECONDS: Final = 240.0


class ControlPlane:
    """One control plane; `address` is the one under which kubelet and pods reach this host."""

    def __init__(self, directory: Path, address: str) -> None:
        directory.mkdir(parents=True)
        self.directory: Final = directory
        self.address: Final = address
        self.authority: Final = Authority(directory / "certificates")
        self.server: Final = f"https://{address}:{free_port(address)}"
        self.kubectl: Final = Kubectl(
            programs.path_of("kubectl"),
            self.authority.kubeconfig("admin", "admin", self.server, ["system:masters"]),
        )
        self._programs: Final = contextlib.ExitStack()

    def start(self) -> None:
        """Start it, and wait until the API server is ready."""
        etcd = self._start_etcd()
        server = self._start_server(etcd)
        server.await_ready(self._answers, what="the API server to be ready", seconds=_START_SECONDS)
        self._start_manager()
        self._start_scheduler()

    def stop(self) -> None:
        """Stop all programs."""
        self._programs.close()

    def _start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._launch(
            "etcd",
            data_dir=self.directory / "etcd",
            listen_client_urls=client,
            advertise_client_urls=client,
            listen_peer_urls=peer,
            initial_advertise_peer_urls=peer,
            initial_cluster=f"default={peer}",
        )
        return client

    def _start_server(self, etcd: str) -> processes.Program:
        signed = self.authority.directory
        hosts = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = [self.address, "127.0.0.1", _KUBERNETES]
        certificate, key = self.authority.sign("server", "server", hosts=[*hosts, *addresses])
        client, client_key = self.authority.sign(
            "server-to-kubelet", "server", groups=["system:masters"]
        )
        return self._launch(
            "kube-apiserver",
            etcd_servers=etcd,
            bind_address=self.address,
            advertise_address=self.address,
            secure_port=self.server.rpartition(":")[2],
            cert_dir=signed,
            tls_cert_file=certificate,
            tls_private_key_file=key,
            client_ca_file=self.authority.certificate,
            kubelet_certificate_authority=self.authority.certificate,
            kubelet_client_certificate=client,
            kubelet_client_key=client_key,
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer="https://kubernetes.default.svc",
            service_account_key_file=signed / "accounts.pub",
            service_account_signing_key_file=signed / "accounts.key",
            service_cluster_ip_range=_SERVICES,
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
        )

    def _start_manager(self) -> None:
        self._launch(
            "kube-controller-manager",
            **self._client("kube-controller-manager"),
            root_ca_file=self.authority.certificate,
            cluster_signing_cert_file=self.authority.certificate,
            cluster_signing_key_file=self.authority.directory / "ca.key",
            service_account_private_key_file=self.authority.directory / "accounts.key",
            use_service_account_credentials="true",
        )

    def _start_scheduler(self) -> None:
        self._launch("kube-scheduler", **self._client("kube-scheduler"))

    def _client(self, name: str) -> Mapping[str, str | Path]:
        """Return the flags of a client of the API server that needs no leader election."""
        kubeconfig = self.authority.kubeconfig(name, f"system:{name}", self.server)
        return {
            "kubeconfig": kubeconfig,
            "authentication_kubeconfig": kubeconfig,
            "authorization_kubeconfig": kubeconfig,
            "leader_elect": "false",
            "bind_address": "127.0.0.1",
            "secure_port": str(free_port()),
        }

    def _launch(self, name: str, **flags: str | Path) -> processes.Program:
        return self._programs.enter_context(
            processes.Program(
                [programs.path_of(name), *argv_of(flags)], log=self.directory / f"{name}.log"
            )
        )

    def _answers(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        try:
            with opener.open(f"{self.server}/readyz", timeout=10):
                return True
        except OSError:
            return False


def argv_of(flags: Mapping[str, str | Path]) -> Sequence[str]:
    """Return command-line flags for settings."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free port; another program may take it before it is used."""
    with socket.socket() as trial:
        trial.bind((address, 0))
        return int(trial.getsockname()[1])
