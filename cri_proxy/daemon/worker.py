"""The worker program: every job of the daemon, and what only jobs need.

The daemon starts it as `cri-proxy worker` with pipes for standard input and output, as `lib.worker`
has it; its settings come with the greeting. HTTP, git, decompression and signatures are loaded
here and not by the daemon, asyncio and gRPC by the daemon and not here: both keep their memory
small that way, and whoever waits for a worker to start does not wait long.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cri_proxy.floxhub import jobs as hubjobs
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.hub import Hub
from cri_proxy.lib import worker
from cri_proxy.realizer import jobs as realizerjobs
from cri_proxy.settings import schema
from cri_proxy.store.disk import garbage, integrity, overlays
from cri_proxy.store.fetch import jobs
from cri_proxy.store.nix import jobs as nixjobs
from cri_proxy.telemetry import logs

_GARBAGE: Final = 20_000
"""Objects between two collections. Jobs make many and no cycles to speak of: with Python's own 700
a twentieth of the processor time was spent on looking for them."""


def main() -> int:
    """Serve jobs to the daemon on standard input and output; return the exit status."""
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    return worker.serve(_greeted)


def jobs_of(greeting: Mapping[str, Any]) -> Mapping[str, worker.Job]:
    """Return every job of a worker that was greeted so."""
    root = Path(greeting["root"])
    hub = greeting["floxhub"]
    ca_file = None if hub["ca_file"] is None else Path(hub["ca_file"])
    timeout = hub["timeout_seconds"]
    store = greeting["store"]
    directory, is_own = Path(store["directory"]), store["kind"] == "own"
    if is_own:
        bringing = jobs.jobs(store)
    else:
        programs = nixjobs.programs_of(root, store)
        bringing, directory = nixjobs.jobs(root, programs), programs.store
    return {
        **bringing,
        **hubjobs.jobs(
            Hub(hub["git_url"], Path(hub["directory"]), timeout_seconds=timeout, ca_file=ca_file),
            Catalog(hub["api_url"], timeout_seconds=timeout, ca_file=ca_file),
        ),
        **realizerjobs.jobs(root, directory, is_own=is_own),
        **overlays.jobs(root, Path(greeting["runtime"])),
        **garbage.jobs(root),
        **integrity.jobs(root),
    }


def _greeted(greeting: dict[str, Any]) -> Mapping[str, worker.Job]:
    logs.setup(schema.LogSettings(**greeting["log"]))
    return jobs_of(greeting)
