"""The worker's side of FloxHub's jobs: they resolve references and look published packages up."""

from __future__ import annotations

from cri_proxy.floxhub import protocol
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.hub import Hub, cleaned
from cri_proxy.floxhub.protocol import HubOptions
from cri_proxy.lib.eventloop import Loop
from cri_proxy.lib.job import Jobs


def jobs(options: HubOptions, loop: Loop | None = None) -> Jobs:
    """Return the jobs for one FloxHub; their requests share an event loop."""
    hub, catalog = Hub(options, loop), Catalog(options, loop)
    return Jobs(
        protocol.RESOLVE.run_by(lambda asked, _: hub.resolve(asked.reference, asked.token)),
        protocol.LOCATIONS.run_by(lambda asked, _: catalog.locations(asked.paths, asked.token)),
        protocol.WAS_GIVEN.run_by(
            lambda asked, _: hub.records.was_given(asked.paths, cleaned(asked.token))
        ),
        protocol.NOTE_GIVEN.run_by(
            lambda grant, _: hub.records.note_given(
                grant.query.paths, cleaned(grant.query.token), is_given=grant.is_given
            )
        ),
        protocol.FORGET.run_by(lambda seconds, _: hub.records.drop_older_than(seconds)),
    )
