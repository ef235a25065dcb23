"""The worker program: every job of the daemon, and what only jobs need.

The daemon starts it as `cri-proxy worker` (`lib.workers`, `lib.worker`); its settings come with the
init message. HTTP, git, decompression and signatures are loaded here and not by the daemon, gRPC by
the daemon and not here: that keeps the memory of both small, and a worker starts quickly. All
requests of a worker share one event loop and its thread.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

from cri_proxy.daemon.initialization import WorkerInit
from cri_proxy.floxhub import jobs as hubjobs
from cri_proxy.lib import worker
from cri_proxy.lib.eventloop import Loop
from cri_proxy.lib.job import Jobs
from cri_proxy.realizer import jobs as realizerjobs
from cri_proxy.store.disk import garbage, integrity, overlays
from cri_proxy.store.fetch import jobs
from cri_proxy.store.nix import jobs as nixjobs
from cri_proxy.store.nix.programs import Programs
from cri_proxy.telemetry import logs

_ALLOCATIONS: Final = 20_000
"""Objects between two collections. Jobs make many and hardly any cycles: with Python's own 700 a
twentieth of the processor time was spent on looking for them."""

_M_ARENA_MAX: Final = -8
_HEAPS: Final = 2
"""glibc gives threads up to eight heaps a core, and each keeps what was freed in it. With two, the
largest worker takes 57 MiB for a gigabyte of zstd instead of 71, in the same time."""


def main() -> int:
    """Serve jobs to the daemon on standard input and output; return the exit status."""
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # glibc's, mallopt(3)
        mallopt(_M_ARENA_MAX, _HEAPS)
    return worker.serve(WorkerInit, _initialize)


def jobs_of(init: WorkerInit) -> Jobs:
    """Return every job of a worker."""
    root, directory = init.root, init.store.directory
    is_own, loop = init.store.kind == "own", Loop()
    if is_own:
        fetching = jobs.jobs(init.store, loop)
    else:
        programs = Programs(root / "nix", init.store)
        fetching, directory = nixjobs.jobs(root, programs), programs.store
    return (
        fetching
        | hubjobs.jobs(init.floxhub, loop)
        | realizerjobs.jobs(root, directory, is_own=is_own)
        | overlays.jobs(root, init.runtime)
        | garbage.jobs(root)
        | integrity.jobs(root)
    )


def _initialize(init: WorkerInit) -> Jobs:
    logs.setup(init.log)
    return jobs_of(init)
