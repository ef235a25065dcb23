"""What workers do with FloxHub: job functions over JSON, and their results read back.

The daemon calls these by name in a worker process, for they wait and unpack. Arguments and results
are plain JSON; a token travels in the argument, over the worker's pipe, and nowhere else.

    floxhub.resolve     {"reference", "token"} → {"reference", "revision", "lock_digest",
                                                  "lockfile", "is_stale"}
    floxhub.locations   {"paths", "token"}     → {"<path>": [{"url", …}]}, as `catalog.wire_of`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cri_proxy.floxhub import catalog
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.hub import Hub, Resolution
from cri_proxy.model import references, storepaths

Job = Callable[[dict[str, Any], object], dict[str, Any]]

RESOLVE = "floxhub.resolve"
LOCATIONS = "floxhub.locations"


def jobs(hub: Hub, published: Catalog | None = None) -> dict[str, Job]:
    """Return the jobs by name; the one about locations only when there is a catalog to ask."""

    def resolve(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        reference = references.parse(argument["reference"])
        return wire_of(hub.resolve(reference, argument.get("token")))

    made: dict[str, Job] = {RESOLVE: resolve}
    if published is not None:

        def locations(argument: dict[str, Any], _task: object) -> dict[str, Any]:
            paths = [storepaths.parse(each) for each in argument["paths"]]
            return catalog.wire_of(published.locations(paths, argument.get("token")))

        made[LOCATIONS] = locations
    return made


def wire_of(resolution: Resolution) -> dict[str, Any]:
    """Return a resolution as JSON."""
    return {
        "reference": str(resolution.reference),
        "revision": resolution.revision,
        "lock_digest": resolution.lock_digest,
        "lockfile": str(resolution.lockfile),
        "is_stale": resolution.is_stale,
    }


def resolution_of(wire: Mapping[str, Any]) -> Resolution:
    """Return the resolution that `wire_of` wrote."""
    return Resolution(
        reference=references.parse(wire["reference"]),
        revision=wire["revision"],
        lock_digest=wire["lock_digest"],
        lockfile=Path(wire["lockfile"]),
        is_stale=wire["is_stale"],
    )
