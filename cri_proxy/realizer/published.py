"""Published packages: whether a caller may have them, and the caches that they are in.

Packages that an organization publishes in its own catalog are in no public cache. FloxHub's catalog
tells where they are to whoever may have them, so that its answer is a permission as well. It is
asked with the caller's own token for every start of an environment that has such packages, and also
when the environment is on this node: to be allowed to see a lockfile is not to be allowed to have
what it names. A package that the catalog does not tell of must be in a configured cache, where it
is for everybody.

While the catalog cannot be reached, its last answer to the same caller about the same packages
stands in, as a permission only: places and logins are never kept on disk.

A place behind a login of a kind that is not spoken here is asked without one, since it may do. The
log tells of it once, and the refusal does if the fetch fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import cachetools

from cri_proxy import errors
from cri_proxy.floxhub import jobs as hubjobs
from cri_proxy.model import storepaths
from cri_proxy.realizer import jobs
from cri_proxy.store import protocol
from cri_proxy.store.fetch import closures
from cri_proxy.telemetry import logs, spans

_log = logs.of(__name__)
_ANSWERS_REMEMBERED: Final = 256
_KINDS_REMEMBERED: Final = 256
_NO_ANSWER: Final = (errors.AccessDenied, errors.NotFound, errors.SourceUnreachable)

Place = Mapping[str, Any]
"""A location as the store takes it (`store.locations`): it holds a login and is never shown."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where to look for published packages, and why the catalog told nothing, if it did not."""

    places: tuple[Place, ...] = field(default=(), repr=False)
    refusal: errors.CriProxyError | None = None

    def explain(self, error: errors.CriProxyError) -> errors.CriProxyError:
        """Return the error of a fetch with the logins that it may have failed for lack of."""
        lacking = [
            f"{protocol.url_of(place)} is behind a login of the kind {place['unspoken']['kind']!a}"
            for place in self.places
            if place["unspoken"]
        ]
        if not lacking:
            return error
        return type(error)(
            f"{error}; FloxHub's catalog says that {' and '.join(lacking)}, which cri-proxy does "
            "not speak: copy the package to a cache with another login, or without any, and name "
            "that in store.caches"
        )


class Published:
    """The catalog of one FloxHub, as one daemon asks it."""

    def __init__(
        self, runner: jobs.Runner, store: closures.ClosureSource, *, remember_seconds: float
    ) -> None:
        self._jobs = runner
        self._store = store
        self._answers: cachetools.TTLCache[tuple[tuple[str, ...], str | None], Located] = (
            cachetools.TTLCache(_ANSWERS_REMEMBERED, remember_seconds)
        )
        self._told: cachetools.LRUCache[tuple[str, str], bool] = cachetools.LRUCache(
            _KINDS_REMEMBERED
        )

    async def locate(self, paths: Sequence[str], token: str | None) -> Located:
        """Return where the published `paths` are, for a caller who may have all of them.

        Raises AccessDenied, NotFound or SourceUnreachable for one who may not, as far as is known.
        """
        if not paths:
            return Located()
        key = (tuple(paths), token)
        known = self._answers.get(key)
        if known is not None:
            return known
        argument = {"paths": list(paths), "token": token}
        with spans.span("floxhub.locate", **{"cri_proxy.paths": len(paths)}):
            listed, refusal = await self._ask(argument)
        if isinstance(refusal, errors.SourceUnreachable):
            last = await self._jobs.call(hubjobs.WAS_GIVEN, argument)
            if last["is_given"]:
                _log.warning("catalog away, its last answer stands in", why=refusal)
                return Located(refusal=refusal)
        located = Located(_places_of(listed), refusal)
        self._tell_of_unspoken(located.places)
        unlisted = [path for path in paths if not listed.get(path)]
        if unlisted:
            await self._find(unlisted, located, argument)
        await self._jobs.call(hubjobs.NOTE_GIVEN, {**argument, "is_given": True})
        if refusal is None:
            self._answers[key] = located
        return located

    async def _ask(
        self, argument: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], errors.CriProxyError | None]:
        """Return the catalog's answer by path, or nothing and why."""
        try:
            return await self._jobs.call(hubjobs.LOCATIONS, argument), None
        except _NO_ANSWER as refusal:
            return {}, refusal

    def _tell_of_unspoken(self, places: Sequence[Place]) -> None:
        """Warn of logins that cannot be used: once for each catalog and kind."""
        for place in places:
            if not (unspoken := place["unspoken"]):
                continue
            which = unspoken["catalog"], unspoken["kind"]
            if which not in self._told:
                self._told[which] = True
                _log.warning(
                    "login of an unknown kind is not used",
                    **unspoken,
                    location=protocol.url_of(place),
                    advice="copy its packages to a cache with another login, or without any, and "
                    "name that in store.caches",
                )

    async def _find(
        self, unlisted: Sequence[str], located: Located, argument: Mapping[str, Any]
    ) -> None:
        """Make sure that caches have what the catalog does not tell of; else refuse."""
        try:
            await self._store.find(map(storepaths.parse, unlisted), located.places)
        except errors.CriProxyError as error:
            if not isinstance(located.refusal, errors.SourceUnreachable):
                await self._jobs.call(hubjobs.NOTE_GIVEN, {**argument, "is_given": False})
            if located.refusal is not None:
                raise located.refusal from error
            whom = "this token" if argument["token"] else "a pod without a token"
            raise type(error)(
                f"FloxHub's catalog names no place of a published package to {whom}: mend the "
                f"token's access to the catalog, or publish the package again ({error})"
            ) from error


def _places_of(listed: Mapping[str, Any]) -> tuple[Place, ...]:
    """Return each location once, with the paths that the catalog lists there."""
    places: list[dict[str, Any]] = []
    for path, locations in listed.items():
        basename = storepaths.parse(path).basename
        for location in locations:
            for place in places:
                if all(place[key] == location[key] for key in location):
                    place["paths"].append(basename)
                    break
            else:
                places.append({**location, "paths": [basename]})
    return tuple(places)
