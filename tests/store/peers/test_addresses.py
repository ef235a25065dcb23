import collections
import socket
import threading

import pytest

from cri_proxy.store.peers import addresses
from cri_proxy.store.peers.addresses import Addresses

FIFTY = [f"10.0.0.{number}:9465" for number in range(1, 51)]
DIGESTS = [f"{number:032d}" for number in range(2000)]


def test_every_node_ranks_alike_whatever_order_dns_answers_in():
    assert addresses.ranked(DIGESTS[0], FIFTY) == addresses.ranked(DIGESTS[0], reversed(FIFTY))


def test_paths_fall_to_all_nodes_about_equally():
    shares = collections.Counter(addresses.ranked(each, FIFTY)[0] for each in DIGESTS)

    assert len(shares) == 50
    assert max(shares.values()) < 3 * len(DIGESTS) / 50


def test_only_the_paths_of_a_node_that_goes_fall_to_others():
    before = {each: addresses.ranked(each, FIFTY)[0] for each in DIGESTS}
    after = {each: addresses.ranked(each, FIFTY[1:])[0] for each in DIGESTS}

    assert all(after[each] == before[each] for each in DIGESTS if before[each] != FIFTY[0])


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("peers.example", ("peers.example", 7)),
        ("peers.example:80", ("peers.example", 80)),
        ("[::1]", ("::1", 7)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_a_name_may_have_a_port(text, split):
    assert addresses.split(text, 7) == split


def test_an_ipv4_address_in_the_form_of_ipv6_is_the_same_peer():
    assert addresses.joined("::ffff:10.0.0.1", 1) == addresses.joined("10.0.0.1", 1)


def test_a_node_knows_itself_by_where_it_listens():
    known = Addresses(["127.0.0.2", "127.0.0.3"], "127.0.0.3:9465")

    assert known.all == ("127.0.0.2:9465", "127.0.0.3:9465")
    assert known.own == "127.0.0.3:9465"
    assert known.source == ("127.0.0.3", 0)


def test_a_node_that_listens_everywhere_knows_itself_by_the_addresses_that_it_has():
    known = Addresses(["192.0.2.1", "127.0.0.1"], "0.0.0.0:9465")

    assert known.own == "127.0.0.1:9465"
    assert known.source is None


def test_a_node_that_does_not_listen_is_no_peer():
    assert Addresses(["127.0.0.1"], "").own is None


def test_all_addresses_of_a_name_are_peers(monkeypatch):
    answers = [
        (socket.AF_INET, 0, 0, "", ("10.0.0.1", 1)),
        (socket.AF_INET6, 0, 0, "", ("fd::1", 1, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    assert Addresses(["peers"], "").all == ("10.0.0.1:9465", "[fd::1]:9465")


def test_a_name_that_cannot_be_looked_up_leaves_what_was_known(monkeypatch):
    monkeypatch.setattr(addresses, "FRESH_SECONDS", 0.0)
    known = Addresses(["127.0.0.1"], "")
    assert known.all == ("127.0.0.1:9465",)
    asked = threading.Event()

    def fail(*_, **__):
        asked.set()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    while not asked.wait(0.01):
        assert known.all == ("127.0.0.1:9465",)

    assert known.all == ("127.0.0.1:9465",)
