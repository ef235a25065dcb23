"""Nodes that share, and a closure that they want."""

import os

import pytest

from hack.testbed import peers
from hack.testbed.binary_cache import Executable


@pytest.fixture
def cluster(tmp_path, publisher, server):
    """Makes nodes that share, behind one cache."""

    def make(count, **changes):
        settings = {"caches": (server.url,), "keys": (publisher.public_key,)} | changes
        return peers.cluster(tmp_path / "cluster", count, **settings)

    return make


@pytest.fixture
def closure(publisher):
    """Some paths and one that needs them all."""
    leaves = [
        publisher.add(f"leaf-{number}", {"bin/x": Executable(os.urandom(20_000))})
        for number in range(8)
    ]
    return publisher.add("top", {"share/text": b"top"}, leaves)
