"""A published closure, its server, and the store's jobs as the daemon runs them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.lib import workers
from cri_proxy.lib.eventloop import Loop
from cri_proxy.lib.job import Task
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar
from cri_proxy.store.caches.fetcher import Fetcher
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import closures
from cri_proxy.store.protocol import StoreOptions
from hack.testbed import ports
from hack.testbed.binary_cache import Publisher
from hack.testbed.web import FileServer

PROGRAM = (
    "from cri_proxy.lib import worker; from cri_proxy.store.fetch import jobs as fetching;"
    "from cri_proxy.store.protocol import StoreOptions;"
    "worker.serve(StoreOptions, fetching.jobs)"
)
PATIENT_PROGRAM = f"from cri_proxy.http import pool; pool.LATE_SECONDS = 60.0;{PROGRAM}"
"""To the workers of this one no answer is late; on a busy machine some would be asked for again."""


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty binary cache."""
    return Publisher(tmp_path / "cache")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that vouches for 127.0.0.1 and itself, and its key."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", key, "-out", certificate, "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def server(publisher: Publisher) -> Iterator[FileServer]:
    """That cache over HTTP."""
    with FileServer(publisher.directory) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of this node."""
    store = Store(tmp_path / "node" / "store")
    store.recover()
    return store


@pytest.fixture
def task() -> Task[Any]:
    """A job's task that is never cancelled; its reports are dropped."""
    return Task(lambda report: None)


@pytest.fixture
def options(store: Store, publisher: Publisher, server: FileServer) -> Callable[..., StoreOptions]:
    """Makes the options of a worker for that store and cache; arguments replace what they say."""

    def make(**changes: Any) -> StoreOptions:
        made = StoreOptions(
            directory=store.directory,
            caches=(server.url,),
            keys=(publisher.public_key,),
            connections=8,
            node_connections=8,
            timeout_seconds=30,
        )
        return replace(made, **changes)

    return make


Closures = Callable[..., contextlib.AbstractAsyncContextManager[closures.Closures]]


@pytest.fixture
def daemon(options: Callable[..., StoreOptions]) -> Closures:
    """Opens a daemon's closures with workers of their own."""

    @contextlib.asynccontextmanager
    async def open_closures(
        *, size: int = 2, is_patient: bool = False, **changes: Any
    ) -> AsyncIterator[closures.Closures]:
        argv = [sys.executable, "-c", PATIENT_PROGRAM if is_patient else PROGRAM]
        pool = workers.Pool(argv, size=size, settings=options(**changes), nice=0)
        async with contextlib.aclosing(pool), contextlib.aclosing(closures.Closures(pool)) as ours:
            await ours.recover()
            yield ours

    return open_closures


@pytest.fixture
def sound(store: Store) -> Callable[[], tuple[StorePath, ...]]:
    """Proves everything that is in place against its record; returns what is present."""

    def prove() -> tuple[StorePath, ...]:
        present = store.paths()
        for path in present:
            record = store.record(path)
            assert record is not None
            digest = nar.digest_of(store.locate(path))
            assert digest == (record.nar_hash, record.nar_size), f"{path} is not what was verified"
        return present

    return prove


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that has no listener."""
    with ports.kept() as port:
        yield port


@pytest.fixture
def loop() -> Loop:
    """An event loop in a thread of its own."""
    return Loop()


Fetching = Callable[[Fetcher[str, bytes]], Coroutine[Any, Any, Any]]


@pytest.fixture
def fetching(loop: Loop) -> Iterator[Callable[[Fetching], Any]]:
    """Runs a coroutine function in the event loop, with a fetcher; decorates it to its result."""
    with ThreadPoolExecutor(4) as threads:

        async def run(job: Fetching) -> Any:
            files = Fetcher[str, bytes](4, threads)
            try:
                return await job(files)
            finally:
                files.close()

        yield lambda job: loop.wait(run(job))
