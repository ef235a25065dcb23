"""The worker program: it has every job that the daemon may send, whatever the settings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy.daemon import parts, worker
from cri_proxy.floxhub import protocol as hubprotocol
from cri_proxy.lib import job
from cri_proxy.lib.job import Job
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


def jobs_of(tmp_path: Path, kind: str) -> job.Jobs:
    store = dataclasses.replace(Settings().store, root=tmp_path, kind=kind)
    return worker.jobs_of(parts.init_of(dataclasses.replace(Settings(), store=store), 1))


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
