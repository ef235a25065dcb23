"""The peer server program by itself: what it serves, and that it ends with its parent."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.testbed import peers
from hack.testbed.peers import Node

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with an empty store and no others."""
    with peers.cluster(tmp_path, 1, caches=(), keys=()) as (node,):
        yield node


def get(node: Node, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(node.address, timeout=30)
    connection.request("GET", target)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_it_serves_as_a_binary_cache(node: Node) -> None:
    status, text = get(node, "/nix-cache-info")

    assert status == 200
    assert b"StoreDir: /nix/store" in text


def test_a_path_that_is_not_here_is_not_found(node: Node) -> None:
    assert get(node, f"/{'0' * 32}.narinfo")[0] == 404


def test_the_end_of_its_input_ends_it(node: Node) -> None:
    get(node, "/nix-cache-info")

    node.stop()  # waits for the program

    with pytest.raises(ConnectionRefusedError):
        get(node, "/nix-cache-info")


def test_without_an_init_message_there_is_nothing_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cri_proxy", "peer-server"],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert (done.stdout, done.stderr) == (b"", b"")
