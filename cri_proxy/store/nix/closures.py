"""Closures by the node's own Nix: what `store.closures.Closures` is for the store of our own.

The daemon's side: it counts, and has one worker job realise all the roots of an environment, for
Nix itself fetches paths side by side. The same roots are realised once for all who ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cri_proxy import errors
from cri_proxy.lib import singleflight
from cri_proxy.lib.workers import Pool
from cri_proxy.model import storepaths
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import protocol
from cri_proxy.store.fetch.closures import PathRecord
from cri_proxy.telemetry import spans


class NixClosures:
    """All realizations of one daemon; belongs to one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._flights: singleflight.Flights[str, list[protocol.Fact]] = singleflight.Flights(
            is_lasting=False
        )
        self._listeners: dict[str, list[Progress]] = {}

    def prepare(self) -> None:
        """Have a worker start."""
        self._pool.warm()

    async def recover(self) -> None:
        """See that Nix is there; raise RequestInvalid if it is not."""
        await self._pool.call(protocol.NIX_RECOVER, {})

    async def realize(
        self,
        roots: Iterable[StorePath],
        progress: Progress,
        places: Sequence[protocol.Location] = (),
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

        def on_progress(report: dict[str, Any]) -> None:
            for each in self._listeners.get(flight, ()):
                each.paths_total = report.get("total", each.paths_total)
                each.paths_done = report.get("copied", each.paths_done)

        async def work() -> list[protocol.Fact]:
            with spans.span("store.realise"):
                answer = await self._pool.call(
                    protocol.NIX_REALISE, {"roots": names}, on_progress=on_progress
                )
            facts: list[protocol.Fact] = answer["facts"]
            return facts

        try:
            facts = await self._flights.fly(flight, work)
        finally:
            listeners[:] = [each for each in listeners if each is not progress]
            if not listeners:
                self._listeners.pop(flight, None)
        copied = progress.paths_done
        progress.paths_total = progress.paths_done = len(facts)
        progress.paths_present = len(facts) - min(copied, len(facts))
        progress.bytes_total = progress.bytes_done = sum(each["nar_size"] for each in facts)
        return tuple(sorted((_record_of(each) for each in facts), key=lambda each: each.path))

    async def find(
        self, paths: Iterable[StorePath], places: Sequence[protocol.Location] = ()
    ) -> None:
        """Make sure that Nix has all of `paths` or can fetch them; raise as `realize` does."""
        _refuse(places)
        names = sorted(each.basename for each in paths)
        await self._pool.call(protocol.NIX_FIND, {"paths": names})

    async def aclose(self) -> None:
        """Give up all that is under way."""
        await self._flights.aclose()


def _refuse(places: Sequence[protocol.Location]) -> None:
    """Refuse locations: Nix's store is everybody's, and what comes with a login is not."""
    if places:
        raise errors.EnvironmentUnsuitable(
            "it has packages from a catalog of its own, which come with a login, and the node's "
            'Nix gives what it has to everybody: set store.kind to "own" for such environments'
        )


def _record_of(fact: protocol.Fact) -> PathRecord:
    references = tuple(storepaths.of_basename(each) for each in fact["references"])
    return PathRecord(storepaths.of_basename(fact["path"]), references, fact["nar_size"])
