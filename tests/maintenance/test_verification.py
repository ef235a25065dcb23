"""Verification and repair, by a real worker and a real cache."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cri_proxy.lib import workers
from cri_proxy.lib.workers import Pool
from cri_proxy.maintenance import verification
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar
from cri_proxy.store.disk.integrity import HashProgress
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from cri_proxy.store.protocol import StoreOptions
from hack.testbed.binary_cache import Publisher
from hack.testbed.web import FileServer
from tests.store.disk import nodes

PROGRAM = """
from cri_proxy.lib import worker
from cri_proxy.store.disk import integrity
from cri_proxy.store.fetch import jobs
from cri_proxy.store.protocol import StoreOptions

worker.serve(
    StoreOptions,
    lambda options: jobs.jobs(options) | integrity.jobs(options.directory.parent),
)
"""


@pytest.fixture
def server(publisher: Publisher) -> Iterator[FileServer]:
    with FileServer(publisher.directory) as server:
        yield server


@pytest.fixture
async def pool(store: Store, publisher: Publisher, server: FileServer) -> AsyncIterator[Pool]:
    options = StoreOptions(
        directory=store.directory,
        caches=(server.url,),
        keys=(publisher.public_key,),
        connections=8,
        node_connections=8,
        timeout_seconds=30,
    )
    argv = [sys.executable, "-c", PROGRAM]
    async with contextlib.aclosing(workers.Pool(argv, size=1, settings=options, nice=0)) as pool:
        yield pool


@pytest.fixture
def paths(store: Store, publisher: Publisher) -> list[StorePath]:
    made = [publisher.add(name, {"bin/x": name.encode()}) for name in ("a", "b")]
    return sorted(nodes.commit(store, publisher, path) for path in made)


def damage(store: Store, path: StorePath) -> None:
    file = store.locate(path) / "bin" / "x"
    file.chmod(0o644)
    file.write_bytes(b"damaged")
    file.chmod(0o444)


async def test_an_intact_store_has_no_findings_and_progress_is_reported(
    pool: Pool, store: Store, views: Views, paths: list[StorePath]
) -> None:
    nodes.realize(views, "web", *paths)
    reports: list[HashProgress] = []

    found = await verification.verify(pool, reports.append)

    assert (found.paths, found.environments, found.findings) == (2, 1, [])
    assert found.bytes == sum(store.peek(path).nar_size for path in paths)
    assert found.is_whole
    assert reports[-1] == HashProgress(checked=2, of=2, bytes=found.bytes)


async def test_a_damaged_path_is_found_once_with_all_its_environments(
    pool: Pool, store: Store, views: Views, paths: list[StorePath]
) -> None:
    identities = [nodes.realize(views, name, *paths) for name in ("api", "web")]
    damage(store, paths[0])

    found = await verification.verify(pool, lambda report: None)

    (finding,) = found.findings
    assert (finding.path, finding.environments) == (paths[0].basename, sorted(identities))
    assert not found.is_whole
    assert store.is_damaged(paths[0])


async def test_repair_fetches_damaged_paths_and_links_them_again(
    root: Path, pool: Pool, store: Store, views: Views, paths: list[StorePath]
) -> None:
    identity = nodes.realize(views, "web", *paths)
    damage(store, paths[0])
    found = await verification.verify(pool, lambda report: None)

    await verification.repair(root, pool, found)

    assert (found.repaired, found.failed) == ([paths[0].basename], {})
    assert found.repaired_environments == [identity]
    assert found.is_whole
    record = store.record(paths[0])
    assert record is not None
    for place in (store.locate(paths[0]), views.locate(identity) / "store" / paths[0].basename):
        assert nar.digest_of(place) == (record.nar_hash, record.nar_size)


async def test_a_path_that_no_cache_has_stays_in_quarantine_and_says_why(
    root: Path,
    pool: Pool,
    store: Store,
    views: Views,
    paths: list[StorePath],
    publisher: Publisher,
) -> None:
    identity = nodes.realize(views, "web", *paths)
    for path in paths:
        damage(store, path)
    publisher.narinfo_file(paths[0]).unlink()
    found = await verification.verify(pool, lambda report: None)

    await verification.repair(root, pool, found)

    assert found.repaired == [paths[1].basename]
    assert list(found.failed) == [paths[0].basename]
    assert str(paths[0]) in found.failed[paths[0].basename]
    assert found.repaired_environments == []
    assert not found.is_whole
    assert store.is_damaged(paths[0])
    assert set(views.damaged(identity)) == set(paths)
