"""Closures by the node's own Nix: what `fetch.closures.Closures` is for the store of our own.

The daemon's side: it counts, and one worker job realises all the roots of an environment, for Nix
itself fetches paths in parallel. The same roots are realised once for all callers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cri_proxy import errors
from cri_proxy.lib import singleflight
from cri_proxy.lib.workers import Pool
from cri_proxy.model import storepaths
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import protocol
from cri_proxy.store.fetch.closures import PathRecord
from cri_proxy.store.protocol import Fact, NixProgress
from cri_proxy.telemetry import spans


class NixClosures:
    """All realizations of one daemon; belongs to one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._flights = singleflight.Flights[str, list[Fact]](is_lasting=False)
        self._listeners: dict[str, list[Progress]] = {}

    def prepare(self) -> None:
        """Start a worker."""
        self._pool.warm()

    async def recover(self) -> None:
        """Make sure that Nix is there; raise RequestInvalid if it is not."""
        await self._pool.call(protocol.NIX_RECOVER, None)

    async def realize(
        self, roots: Iterable[StorePath], progress: Progress, places: Sequence[Location] = ()
    ) -> tuple[PathRecord, ...]:
        """Return the closure of `roots`, sorted, when all of it is in Nix's store.

        Raises as `Closures.realize` does, and EnvironmentUnsuitable for `places`.
        """
        _refuse(places)
        progress.phase = Phase.FETCHING
        names = sorted({each.basename for each in roots})
        flight = " ".join(names)
        listeners = self._listeners.setdefault(flight, [])
        listeners.append(progress)

        def on_progress(report: NixProgress) -> None:
            for each in self._listeners.get(flight, ()):
                if report.total is not None:
                    each.paths_total = report.total
                if report.copied is not None:
                    each.paths_done = report.copied

        async def work() -> list[Fact]:
            with spans.span("store.realise"):
                return await self._pool.call(protocol.NIX_REALISE, names, on_progress=on_progress)

        try:
            facts = await self._flights.fly(flight, work)
        finally:
            listeners[:] = [each for each in listeners if each is not progress]
            if not listeners:
                self._listeners.pop(flight, None)
        copied = progress.paths_done
        progress.paths_total = progress.paths_done = len(facts)
        progress.paths_present = len(facts) - min(copied, len(facts))
        progress.bytes_total = progress.bytes_done = sum(each.nar_size for each in facts)
        return tuple(sorted((_record_of(each) for each in facts), key=lambda each: each.path))

    async def find(self, paths: Iterable[StorePath], places: Sequence[Location] = ()) -> None:
        """Make sure that Nix has all of `paths` or can fetch them; raise as `realize` does."""
        _refuse(places)
        await self._pool.call(protocol.NIX_FIND, sorted(each.basename for each in paths))

    async def aclose(self) -> None:
        """Cancel everything that is under way."""
        await self._flights.aclose()


def _refuse(places: Sequence[Location]) -> None:
    """Refuse locations: all users share Nix's store, and a login's packages must not be shared."""
    if places:
        raise errors.EnvironmentUnsuitable(
            "it has packages from a catalog of its own, which come with a login, and the node's "
            'Nix shares its store with all users: set store.kind to "own" for such environments'
        )


def _record_of(fact: Fact) -> PathRecord:
    references = tuple(storepaths.of_basename(each) for each in fact.references)
    return PathRecord(storepaths.of_basename(fact.path), references, fact.nar_size)
