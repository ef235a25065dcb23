"""One cluster for the whole run, which the tests share: starting it takes half a minute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from hack.cluster import programs, samples
from hack.cluster.cluster import Cluster, lacks
from hack.cluster.kubectl import Kubectl
from hack.testbed import sweeping
from tests.kubernetes.spaces import Space

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory, and run those last that disturb the whole node."""
    for item in items:
        if "tests/kubernetes" in item.path.as_posix():
            item.add_marker(pytest.mark.kubernetes)
            item.add_marker(pytest.mark.timeout(600))
    items.sort(key=lambda item: "disturbs" in item.keywords)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node, with the environments of the samples on its FloxHub.

    The fixture asserts that nothing of it is left at the end.
    """
    if missing := [*programs.lacks(), *lacks()]:
        pytest.fail(f"this machine lacks {'; '.join(missing)}: make e2e-kubernetes", pytrace=False)
    with Cluster() as running:
        samples.push(running)
        yield running
    assert sweeping.remains(running.runtime.traces) == []


@pytest.fixture
def kubectl(cluster: Cluster) -> Kubectl:
    """The administrator's kubectl."""
    return cluster.kubectl


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    """A namespace for one test."""
    with Space(cluster, f"test-{next(_numbers)}") as made:
        yield made
