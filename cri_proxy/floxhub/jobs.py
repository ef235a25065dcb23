"""The worker's side of FloxHub's jobs: they resolve references and look published packages up."""

from __future__ import annotations

from cri_proxy.floxhub import protocol
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.hub import Hub, cleaned
from cri_proxy.floxhub.protocol import CatalogGrant, CatalogQuery, HubOptions, Resolution, Resolve
from cri_proxy.lib.eventloop import Loop
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.model.cachelocations import Location


def jobs(options: HubOptions, loop: Loop | None = None) -> Jobs:
    """Return the jobs for one FloxHub; their requests share an event loop."""
    hub, catalog = Hub(options, loop), Catalog(options, loop)

    def resolve(argument: Resolve, task: Task[None]) -> Resolution:
        return hub.resolve(argument.reference, argument.token)

    def locations(argument: CatalogQuery, task: Task[None]) -> list[Location]:
        return catalog.locations(argument.paths, argument.token)

    def was_given(argument: CatalogQuery, task: Task[None]) -> bool:
        return hub.records.was_given(argument.paths, cleaned(argument.token))

    def note_given(argument: CatalogGrant, task: Task[None]) -> None:
        query = argument.query
        hub.records.note_given(query.paths, cleaned(query.token), is_given=argument.is_given)

    def forget(seconds: float, task: Task[None]) -> int:
        return hub.records.drop_older_than(seconds)

    return Jobs(
        protocol.RESOLVE.run_by(resolve),
        protocol.LOCATIONS.run_by(locations),
        protocol.WAS_GIVEN.run_by(was_given),
        protocol.NOTE_GIVEN.run_by(note_given),
        protocol.FORGET.run_by(forget),
    )
