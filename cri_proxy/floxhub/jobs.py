"""What workers do with FloxHub: job functions over JSON, and their results read back.

The daemon calls these by name in a worker process, for they wait and unpack. Arguments and results
are plain JSON; a token travels in the argument, over the worker's pipe, and nowhere else. Git and
HTTP are loaded by whoever makes the hub, not by this module, which the daemon imports for names.

    floxhub.resolve     {"reference", "token"} → {"reference", "revision", "lock_digest",
                                                  "lockfile", "is_stale"}
    floxhub.locations   {"paths", "token"}     → {"<path>": [{"url", …}]}, as `Location.to_wire`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cri_proxy.floxhub import resolution
from cri_proxy.floxhub.resolution import of_wire as resolution_of
from cri_proxy.model import references, storepaths

if TYPE_CHECKING:
    from cri_proxy.floxhub.catalog import Catalog
    from cri_proxy.floxhub.hub import Hub

__all__ = ["RESOLVE", "LOCATIONS", "Job", "jobs", "resolution_of"]

Job = Callable[[dict[str, Any], object], dict[str, Any]]

RESOLVE = "floxhub.resolve"
LOCATIONS = "floxhub.locations"


def jobs(hub: Hub, published: Catalog | None = None) -> dict[str, Job]:
    """Return the jobs by name; the one about locations only when there is a catalog to ask."""

    def resolve(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        reference = references.parse(argument["reference"])
        return resolution.wire_of(hub.resolve(reference, argument.get("token")))

    made: dict[str, Job] = {RESOLVE: resolve}
    if published is not None:

        def locations(argument: dict[str, Any], _task: object) -> dict[str, Any]:
            paths = [storepaths.parse(each) for each in argument["paths"]]
            found = published.locations(paths, argument.get("token"))
            return {str(path): [each.to_wire() for each in where] for path, where in found.items()}

        made[LOCATIONS] = locations
    return made
