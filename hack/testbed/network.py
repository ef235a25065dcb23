"""A private bridge for pods, and the CNI configuration that connects them to it.

The bridge is created here and not by the CNI plugin, which would enable the host's `ip_forward`
permanently. So pods and the host reach each other over the bridge's subnet, nothing is routed or
masqueraded beyond it, and the host's firewall and sysctls are unchanged, with one exception: where
bridged packets pass through iptables and may be dropped there (Docker sets the policy of the
FORWARD chain to DROP), one rule accepts packets within this bridge.

`remove` needs only the value itself, so that it can clean up after a test process that has died.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SUBNETS: Final = ipaddress.ip_network("10.192.0.0/11")
_BRIDGED_TO_IPTABLES: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_RESULTS: Final = Path("/var/lib/cni/results")


@dataclass(frozen=True, slots=True)
class Network:
    """The names of one private pod network; nothing exists before `create`."""

    bridge: str
    subnet: str

    @property
    def gateway(self) -> str:
        """The bridge's own address, under which pods reach the host."""
        return str(ipaddress.ip_network(self.subnet)[1])


def chosen(token: str) -> Network:
    """Return a network named after `token` (8 characters) on a subnet without a route."""
    taken = [ipaddress.ip_network(each) for each in _routed_subnets()]
    while True:
        subnet = ipaddress.ip_network((int(_SUBNETS[0]) + (secrets.randbelow(2**13) << 8), 24))
        if not any(subnet.overlaps(each) for each in taken if each.version == 4):
            return Network(bridge=f"crp{token}", subnet=str(subnet))


def conflist(network: Network, directory: Path) -> str:
    """Return the CNI network configuration; addresses are kept below `directory`."""
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": network.bridge,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": network.bridge,
                    "isGateway": False,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(directory / "addresses"),
                        "ranges": [[{"subnet": network.subnet, "gateway": network.gateway}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        },
        indent=2,
    )


def create(network: Network) -> None:
    """Create the bridge, and set its address."""
    width = ipaddress.ip_network(network.subnet).prefixlen
    _ip("link", "add", network.bridge, "type", "bridge")
    _ip("address", "add", f"{network.gateway}/{width}", "dev", network.bridge)
    _ip("link", "set", network.bridge, "up")
    if _is_filtered():
        subprocess.run(_rule("--insert", network), check=True, capture_output=True)


def interfaces(network: Network) -> list[str]:
    """Return the existing interfaces: the bridge and the host's ends of the pods' veth pairs."""
    every = json.loads(_ip("-json", "link", "show"))
    return [
        each["ifname"]
        for each in every
        if each["ifname"] == network.bridge or each.get("master") == network.bridge
    ]


def remove(network: Network) -> None:
    """Remove bridge, veth pairs, firewall rule and the CNI library's cached results, if any."""
    for name in reversed(interfaces(network)):
        # A veth pair may disappear meanwhile: the kernel removes it with the pod's end.
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
    if _is_filtered():
        subprocess.run(_rule("--delete", network), check=False, capture_output=True)
    if _RESULTS.is_dir():
        _forget_results(network)


def _forget_results(network: Network) -> None:
    """Delete cached results of the CNI library for pods whose network was not torn down.

    The result for a pod's loopback has the pod's id, which is known from its bridge result:
    `<network>-<pod>-eth0` and `cni-loopback-<pod>-lo`.
    """
    for result in _RESULTS.glob(f"{network.bridge}-*"):
        match = re.fullmatch(rf"{network.bridge}-(.+)-eth0", result.name)
        if match is not None:
            (_RESULTS / f"cni-loopback-{match[1]}-lo").unlink(missing_ok=True)
        result.unlink(missing_ok=True)


def _routed_subnets() -> list[str]:
    routes = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    return [each["dst"] for each in routes if each["dst"] != "default"]


def _is_filtered() -> bool:
    is_shown = _BRIDGED_TO_IPTABLES.exists() and _BRIDGED_TO_IPTABLES.read_text().strip() == "1"
    return is_shown and shutil.which("iptables") is not None


def _rule(action: str, network: Network) -> list[str]:
    within = ["--in-interface", network.bridge, "--out-interface", network.bridge]
    return ["iptables", "--wait", action, "FORWARD", *within, "--jump", "ACCEPT"]


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
