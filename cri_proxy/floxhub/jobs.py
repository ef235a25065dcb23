"""What workers do with FloxHub: job functions over JSON, and their results read back.

The daemon calls these by name in a worker process, for they wait and unpack. Arguments and results
are plain JSON; a token travels in the argument, over the worker's pipe, and nowhere else. Git and
HTTP are loaded by whoever makes the hub, not by this module, which the daemon imports for names.

    floxhub.resolve     {"reference", "token"} → {"reference", "revision", "lock_digest",
                                                  "lockfile", "is_stale"}
    floxhub.locations   {"paths", "token"}     → {"<path>": [{"url", …}]}, as `Location.to_wire`
    floxhub.was_given   {"paths", "token"}     → {"is_given"}: published packages, last time
    floxhub.note_given  {"paths", "token", "is_given"} → {}: this time
    floxhub.forget      {"seconds"} → {"files"}: what nobody asked for since is removed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cri_proxy.floxhub import resolution
from cri_proxy.floxhub.resolution import of_wire as resolution_of
from cri_proxy.model import references, storepaths
from cri_proxy.model.storepaths import StorePath

if TYPE_CHECKING:
    from cri_proxy.floxhub.catalog import Catalog
    from cri_proxy.floxhub.hub import Hub

__all__ = [
    "RESOLVE",
    "LOCATIONS",
    "WAS_GIVEN",
    "NOTE_GIVEN",
    "FORGET",
    "Job",
    "jobs",
    "resolution_of",
]

Job = Callable[[dict[str, Any], object], dict[str, Any]]

RESOLVE = "floxhub.resolve"
LOCATIONS = "floxhub.locations"
WAS_GIVEN = "floxhub.was_given"
NOTE_GIVEN = "floxhub.note_given"
FORGET = "floxhub.forget"


def jobs(hub: Hub, published: Catalog | None = None) -> dict[str, Job]:
    """Return the jobs by name; the one about locations only when there is a catalog to ask."""

    def resolve(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        reference = references.parse(argument["reference"])
        return resolution.wire_of(hub.resolve(reference, argument.get("token")))

    def was_given(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        return {"is_given": hub.was_given(_paths_of(argument), argument.get("token"))}

    def note_given(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        hub.note_given(
            _paths_of(argument), argument.get("token"), is_given=bool(argument["is_given"])
        )
        return {}

    def forget(argument: dict[str, Any], _task: object) -> dict[str, Any]:
        return {"files": hub.drop_older_than(argument["seconds"])}

    made: dict[str, Job] = {
        RESOLVE: resolve,
        WAS_GIVEN: was_given,
        NOTE_GIVEN: note_given,
        FORGET: forget,
    }
    if published is not None:

        def locations(argument: dict[str, Any], _task: object) -> dict[str, Any]:
            found = published.locations(_paths_of(argument), argument.get("token"))
            return {str(path): [each.to_wire() for each in where] for path, where in found.items()}

        made[LOCATIONS] = locations
    return made


def _paths_of(argument: Mapping[str, Any]) -> list[StorePath]:
    return [storepaths.parse(each) for each in argument["paths"]]
