"""The worker program: it has every job that the daemon may send, whatever the settings."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.daemon import parts, worker
from cri_proxy.daemon.initialization import WorkerInit
from cri_proxy.floxhub import protocol as hubprotocol
from cri_proxy.lib import job
from cri_proxy.lib.job import Job
from cri_proxy.lib.workers import Pool
from cri_proxy.realizer import protocol as realizerprotocol
from cri_proxy.settings import Settings
from cri_proxy.store import protocol
from cri_proxy.store.disk import garbage, integrity, overlays

ROOT = Path(__file__).parents[2]
NIX = {"store.nix.realise", "store.nix.find", "store.nix.recover"}
MODULES = (hubprotocol, realizerprotocol, protocol, garbage, integrity, overlays)
DEFINED = {
    each.name: each for module in MODULES for each in vars(module).values() if isinstance(each, Job)
}


def init_of(tmp_path: Path, kind: str) -> WorkerInit:
    store = dataclasses.replace(Settings().store, root=tmp_path, kind=kind)
    return parts.init_of(dataclasses.replace(Settings(), store=store), 1)


def jobs_of(tmp_path: Path, kind: str) -> job.Jobs:
    return worker.jobs_of(init_of(tmp_path, kind))


def test_it_has_all_jobs_of_a_store_of_its_own(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "own")

    assert {name for name, each in DEFINED.items() if each not in jobs} == NIX
    assert len(DEFINED) >= 20


def test_it_has_the_jobs_of_the_nodes_nix_instead(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "nix")

    assert {name for name in NIX if DEFINED[name] not in jobs} == set()
    assert protocol.SURVEY not in jobs


@pytest.mark.parametrize("module", ["grpc", "google.protobuf", "prometheus_client"])
def test_it_does_not_load_what_only_the_daemon_needs(module: str) -> None:
    program = f"import sys, cri_proxy.daemon.worker; assert {module!r} not in sys.modules"

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


async def test_the_daemons_pool_runs_its_jobs(tmp_path: Path) -> None:
    init = init_of(tmp_path, "own")
    async with contextlib.aclosing(Pool(parts.WORKER_ARGV, size=1, settings=init)) as pool:
        await pool.call(realizerprotocol.RECOVER, None)

        assert await pool.call(garbage.MEASURE, None) == garbage.StoreSize(0, 0)
    assert (tmp_path / "environments").is_dir()


async def test_settings_that_a_worker_refuses_fail_its_jobs(tmp_path: Path) -> None:
    init = init_of(tmp_path, "own")
    store = dataclasses.replace(init.store, keys=("nonsense",))
    init = dataclasses.replace(init, store=store)
    async with contextlib.aclosing(Pool(parts.WORKER_ARGV, size=1, settings=init)) as pool:
        with pytest.raises(errors.RequestInvalid, match="nonsense"):
            await pool.call(garbage.MEASURE, None)
