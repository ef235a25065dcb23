"""A node's store and environments, and a cache to fetch paths from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from hack.testbed.binary_cache import Publisher
from tests.store.disk import nodes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The node's store.root."""
    return tmp_path / "node"


@pytest.fixture
def store(root: Path) -> Store:
    """An empty store of this node."""
    store = Store(root / "store")
    store.recover()
    return store


@pytest.fixture
def views(root: Path, store: Store) -> Views:
    """The node's environments, none yet."""
    return nodes.views_of(root, store)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty binary cache, of uncompressed archives."""
    return Publisher(tmp_path / "cache", compression="none")
