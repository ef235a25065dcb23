import ipaddress
import json
from pathlib import Path

from hack.testbed import network


def test_the_host_has_no_route_to_a_chosen_subnet() -> None:
    chosen = ipaddress.ip_network(network.chosen("00000000").subnet)

    assert chosen.prefixlen == 24
    assert not any(
        chosen.overlaps(ipaddress.ip_network(each)) for each in network._routed_subnets()
    )


def test_the_plugins_neither_masquerade_nor_forward() -> None:
    value = network.Network(bridge="crp00000000", subnet="10.200.0.0/24")

    (plugin,) = json.loads(network.conflist(value, Path("/anywhere")))["plugins"]

    assert (plugin["ipMasq"], plugin["isGateway"]) == (False, False)
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.200.0.0/24", "gateway": "10.200.0.1"}]]
