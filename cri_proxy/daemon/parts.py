"""The parts that realize environments, built from settings and connected.

Used by the daemon and by commands that realize environments themselves; both may run at once on
one node, since what they share is on disk and protected by locks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy.daemon.initialization import WorkerInit
from cri_proxy.floxhub.protocol import HubOptions
from cri_proxy.lib import certificates, workers
from cri_proxy.model import systems
from cri_proxy.realizer import protocol
from cri_proxy.realizer.realizer import Realizer, RealizerOptions
from cri_proxy.settings.schema import Settings
from cri_proxy.store.fetch import closures
from cri_proxy.store.nix import closures as nixclosures
from cri_proxy.store.protocol import NixOptions, PeerOptions, StoreOptions

_LEAST_NICE: Final = 19
WORKER_ARGV: Final = (sys.executable, "-m", "cri_proxy", "worker")


@dataclass(frozen=True, slots=True)
class Parts:
    """The worker pool and the realizer of one root directory."""

    pool: workers.Pool
    realizer: Realizer


@asynccontextmanager
async def keeping_pool_of(settings: Settings) -> AsyncIterator[workers.Pool]:
    """Yield a pool of one worker at the lowest priority, for maintenance."""
    init = init_of(settings, settings.store.workers_on(1))
    pool = workers.Pool(WORKER_ARGV, size=1, settings=init, nice=_LEAST_NICE)
    async with aclosing(pool):
        yield pool


@asynccontextmanager
async def realizer_of(settings: Settings) -> AsyncIterator[Realizer]:
    """Yield the realizer of `parts_of`."""
    async with parts_of(settings) as parts:
        yield parts.realizer


@asynccontextmanager
async def parts_of(settings: Settings) -> AsyncIterator[Parts]:
    """Build a realizer with its workers and a recovered store; close all of them at the end."""
    size = settings.store.workers_on(len(os.sched_getaffinity(0)))
    init = init_of(settings, size)
    async with aclosing(workers.Pool(WORKER_ARGV, size=size, settings=init, kept=1)) as pool:
        await pool.call(protocol.RECOVER, None)
        async with realizer_with(settings, pool) as realizer:
            yield Parts(pool, realizer)


@asynccontextmanager
async def realizer_with(settings: Settings, pool: workers.Pool) -> AsyncIterator[Realizer]:
    """Build a realizer that uses the workers of `pool`; the store has been recovered."""
    root, options = settings.store.root, options_of(settings)
    async with (
        aclosing(await _store_of(settings, pool)) as store,
        aclosing(Realizer(root, pool, store, options)) as realizer,
    ):
        yield realizer


async def _store_of(settings: Settings, pool: workers.Pool) -> closures.ClosureSource:
    """Return the source of closures that the settings choose, ready for use."""
    if settings.store.kind == "nix":
        store = nixclosures.NixClosures(pool)
        await store.recover()
        return store
    return closures.Closures(pool, connections=settings.store.connections)


def options_of(settings: Settings) -> RealizerOptions:
    """Return the options of the realizer by the settings."""
    system = systems.of_node()
    shell = settings.activation.shell.get(system)
    match settings.activation.certificates:
        case "none":
            authorities = None
        case "auto":
            authorities = certificates.bundle()
        case path:
            authorities = Path(path)
    return RealizerOptions(
        system=system,
        shell=None if shell is None else str(shell),
        certificates=authorities,
        remember_seconds=settings.floxhub.remember_seconds,
    )


def init_of(settings: Settings, size: int) -> WorkerInit:
    """Return what each of `size` workers builds its jobs from."""
    root = settings.store.root
    return WorkerInit(
        root=root,
        runtime=settings.runtime.endpoint,
        log=settings.log,
        store=store_options_of(settings, size),
        floxhub=HubOptions(
            directory=root / "floxhub",
            git_url=settings.floxhub.git_base,
            api_url=settings.floxhub.api_base,
            timeout_seconds=settings.floxhub.timeout_seconds,
            ca_file=settings.floxhub.ca_file,
        ),
    )


def store_options_of(settings: Settings, size: int) -> StoreOptions:
    """Return what the settings say about the store to each of `size` workers."""
    store = settings.store
    return StoreOptions(
        directory=store.root / "store",
        kind=store.kind,
        caches=store.caches,
        keys=store.public_keys,
        ca_file=store.ca_file,
        connections=max(1, store.connections // size),
        node_connections=store.connections,
        timeout_seconds=store.timeout_seconds,
        peers=PeerOptions(settings.peer.names, settings.peer.listen),
        nix=NixOptions(
            directory="" if store.nix_directory is None else str(store.nix_directory),
            remote=store.nix_remote,
        ),
    )
