"""What nodes serve to each other: the real peer servers, over the loopback network."""

import http.client

import pytest

from cri_proxy.http.client import Client
from cri_proxy.lib.job import Task
from cri_proxy.model.cachelocations import Location
from cri_proxy.store import nar, protocol
from cri_proxy.store.caches.cache import of_url
from cri_proxy.store.protocol import Fetch
from hack.testbed.nix import Nix


def ask(address, target, method="GET"):
    """Ask a node from an address that is no peer's; return status and body."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, f"/{target}")
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_what_is_served_has_the_original_signatures(cluster, closure, publisher):
    with cluster(1) as (node,):
        node.realize(closure)
        cache = of_url(f"http://{node.address}", Client(size=1))
        offer = cache.lookup(closure)

        assert offer.narinfo.signatures == publisher.narinfo(closure).signatures
        assert ask(node.address, "nix-cache-info")[1].startswith(b"StoreDir: /nix/store\n")
        assert ask(node.address, offer.narinfo.url, "HEAD") == (200, b"")
        assert ask(node.address, f"{'0' * 32}.narinfo")[0] == 404


@pytest.mark.nix
def test_nix_reads_what_is_served(cluster, closure, publisher, tmp_path):
    with cluster(1) as (node,):
        paths = node.realize(closure)
        nix = Nix(tmp_path / "nix")
        nix.realise([closure], cache=f"http://{node.address}", public_key=publisher.public_key)

    for path in paths:
        assert nar.digest_of(nix.physical(path)) == nar.digest_of(node.store.locate(path))


def test_what_needed_a_login_is_never_served(cluster, closure, server, publisher):
    with_login = server.url.replace("http://", "http://user:secret@")
    with cluster(2, caches=(with_login,)) as nodes:
        nodes[0].realize(closure)

        assert ask(nodes[0].address, f"{closure.digest}.narinfo")[0] == 404
        assert ask(nodes[0].address, f"nar/{closure.basename}.nar")[0] == 404
        nodes[1].realize(closure)

    assert server.count("/nar/*") == 2 * 9


def test_what_a_realizations_own_location_gave_is_never_served(cluster, closure, server):
    place = Location(server.url, paths=(closure.basename,))
    with cluster(1, caches=()) as (node,):
        facts = node.survey(closure, places=[place])
        top = next(each for each in facts if each.path == closure.basename)
        wanted = Fetch(top.path, top.found, (place,))
        node.jobs[protocol.FETCH](wanted, Task(lambda count: None))

        assert node.store.has(closure)
        assert ask(node.address, f"{closure.digest}.narinfo")[0] == 404
        assert ask(node.address, f"nar/{closure.basename}.nar")[0] == 404


def test_strangers_get_no_say_in_who_has_what(cluster, closure):
    with cluster(1) as (node,):
        node.realize(closure)

        assert ask(node.address, f"peers/1/turn/{closure.digest}?size=1")[0] == 403
        assert ask(node.address, f"peers/1/narinfo/{closure.digest}")[0] == 403
        assert ask(node.address, "peers/1/holdings", "POST")[0] == 403


@pytest.mark.parametrize("target", ["nar/..%2f..%2fetc.nar", "nar/x.nar", "../x", "", "peers/2/x"])
def test_nothing_else_is_there(cluster, target):
    with cluster(1) as (node,):
        assert ask(node.address, target)[0] == 404
