"""Nodes that share: the real peer servers and workers' jobs, over the loopback network."""

import concurrent.futures
import os
import signal
import socket
import threading

from cri_proxy.model import storepaths
from cri_proxy.store import nar, narinfo
from cri_proxy.store.peers import addresses, asking
from hack.testbed import waiting
from hack.testbed.binary_cache import Publisher
from tests.store.disk.nodes import remove


def proven(node, paths):
    """Prove that all of `paths` are in a node's store as they were recorded."""
    for path in paths:
        record = node.store.record(path)
        assert nar.digest_of(node.store.locate(path)) == (record.nar_hash, record.nar_size)


def addresses_of(node):
    """The addresses that a node knows of."""
    return addresses.Addresses(node.options.peers.names, node.options.peers.listen)


def test_nodes_that_start_one_after_another_ask_the_origin_once(cluster, closure, server):
    with cluster(3) as nodes:
        for node in nodes:
            proven(node, node.realize(closure))

    assert server.count("/nar/*") == 9
    assert server.count("*.narinfo") <= 2 * 9  # one for the survey, one for the fetch


def test_nodes_that_start_at_once_ask_the_origin_once(cluster, closure, server):
    with cluster(6) as nodes, concurrent.futures.ThreadPoolExecutor(6) as together:
        for node, paths in zip(nodes, together.map(lambda each: each.realize(closure), nodes)):
            proven(node, paths)

    assert server.count("/nar/*") == 9


def test_a_node_realizes_from_its_peers_while_the_origin_is_away(cluster, closure, server):
    with cluster(2) as nodes:
        nodes[0].realize(closure)
        server.stop()

        assert len(nodes[1].realize(closure)) == 9


def test_a_peer_that_sends_damaged_archives_is_not_believed(cluster, closure, server):
    with cluster(2) as nodes:
        first, second = nodes
        paths = first.realize(closure)
        for path in paths:  # the disk of the first goes bad
            for file in first.store.locate(path).rglob("*"):
                if file.is_file():
                    file.write_bytes(b"?" * file.stat().st_size)
        proven(second, second.realize(closure))

    assert server.count("/nar/*") == 2 * 9


def test_a_peer_that_lost_a_path_costs_a_question(cluster, closure, server):
    with cluster(2) as nodes:
        first, second = nodes
        paths = first.realize(closure)
        remove(first.store, paths)

        proven(second, second.realize(closure))


def test_peers_that_are_away_are_done_without(cluster, closure, server):
    with cluster(3) as nodes:
        nodes[0].realize(closure)
        nodes[0].stop()
        nodes[1].stop()

        proven(nodes[2], nodes[2].realize(closure))


def test_a_peer_that_accepts_and_never_answers_is_benched(cluster, closure, monkeypatch):
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    with cluster(2) as nodes:
        nodes[0].stop()
        host, _, port = nodes[0].address.rpartition(":")
        with socket.create_server((host, int(port)), backlog=64):
            proven(nodes[1], nodes[1].realize(closure))


def test_a_peer_whose_narinfos_no_trusted_key_signed_is_not_believed(
    cluster, closure, server, publisher, tmp_path
):
    """Each tracker keeps only what its own keys vouch for, and each asker looks for itself."""
    other = Publisher(tmp_path / "other")
    with cluster(2) as nodes:
        forged = narinfo.parse(publisher.narinfo_file(closure).read_bytes(), closure)
        text = narinfo.text_of(forged).replace(publisher.public_key.partition(":")[0], "other")
        assert other.public_key not in text
        known = addresses_of(nodes[0])
        liar = asking.Peers(known, nodes[0].store)
        for tracker in known.all:
            liar._loop.wait(liar._ask("PUT", tracker, f"narinfo/{closure.basename}", text))

        assert "http://127.0.0.1" in next(
            each.found.cache for each in nodes[1].survey(closure) if each.path == closure.basename
        )


def test_a_worker_that_dies_with_a_turn_does_not_stop_the_others(cluster, closure, server):
    with cluster(2) as nodes:
        facts = [each for each in nodes[0].survey(closure) if each.found is not None]
        path = storepaths.of_basename(facts[0].path)
        info = narinfo.parse(facts[0].found.narinfo.encode(), path)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            known = addresses_of(nodes[0])
            with asking.Peers(known, nodes[0].store)._turn(info, lambda: None):
                os.write(writing, b"!")
                signal.pause()
            os._exit(0)
        assert os.read(reading, 1) == b"!"
        done = threading.Event()

        def fetch():
            nodes[1].fetch(facts[0])
            done.set()

        thread = threading.Thread(target=fetch)
        thread.start()
        assert not done.is_set()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        thread.join(30)

        assert nodes[1].store.has(path)
        os.close(reading)
        os.close(writing)


def test_a_node_that_was_started_anew_is_told_what_the_others_have(cluster, closure, server):
    with cluster(2) as nodes:
        nodes[0].realize(closure)
        for node in nodes:
            node.stop()
        for node in nodes:
            node.start()
        waiting.until(
            lambda: "paths announced" in nodes[0].log().rpartition("reset")[2],
            what="the first node telling what it has",
        )
        server.forget()
        nodes[1].realize(closure)

    assert server.count("/nar/*") == 0
