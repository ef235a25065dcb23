"""Access to published packages: whether a caller may have them, and which caches have them.

Packages that an organization publishes in its own catalog are in no public cache. FloxHub's catalog
says where they are only to callers that may have them, so its response is a permission as well. It
is asked with the caller's own token for every start of an environment that has such packages, even
when the environment is on this node: permission to read a lockfile is not permission to have what
it names. A package that the catalog does not list must be in a configured cache, which is for all
callers.

While the catalog is unavailable, its last response to the same caller about the same packages is
used, as a permission only: locations and logins are never kept on disk.

A location with a login of an unsupported kind is tried without one. That is logged once, and is in
the error if the fetch fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cachetools

from cri_proxy import errors
from cri_proxy.floxhub import protocol
from cri_proxy.floxhub.protocol import CatalogGrant, CatalogQuery
from cri_proxy.lib.workers import Pool
from cri_proxy.model.cachelocations import Location, UnsupportedLogin
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store.fetch import closures
from cri_proxy.store.protocol import url_of
from cri_proxy.telemetry import logs, spans

_log = logs.of(__name__)
_ANSWERS_REMEMBERED: Final = 256
_KINDS_REMEMBERED: Final = 256
_NO_ANSWER: Final = (errors.AccessDenied, errors.NotFound, errors.SourceUnreachable)


@dataclass(frozen=True, slots=True)
class Located:
    """The locations of published packages, or why the catalog returned none."""

    places: tuple[Location, ...] = ()
    refusal: errors.CriProxyError | None = None

    def explain(self, error: errors.CriProxyError) -> errors.CriProxyError:
        """Return the error of a fetch with the unsupported logins that may be the reason."""
        lacking = [
            f"{url_of(place)} is behind a login of the kind {place.unsupported.kind!a}"
            for place in self.places
            if place.unsupported
        ]
        if not lacking:
            return error
        return type(error)(
            f"{error}; FloxHub's catalog says that {' and '.join(lacking)}, which cri-proxy does "
            "not support: copy the package to a cache with another login, or without any, and name "
            "that in store.caches"
        )


class CatalogAccess:
    """The catalog of one FloxHub, as one daemon asks it."""

    def __init__(
        self, pool: Pool, store: closures.ClosureSource, *, remember_seconds: float
    ) -> None:
        self._pool = pool
        self._store = store
        self._answers: cachetools.TTLCache[CatalogQuery, Located] = cachetools.TTLCache(
            _ANSWERS_REMEMBERED, remember_seconds
        )
        self._warned: cachetools.LRUCache[UnsupportedLogin, bool] = cachetools.LRUCache(
            _KINDS_REMEMBERED
        )

    async def locate(self, paths: tuple[StorePath, ...], token: str | None) -> Located:
        """Return where the published `paths` are, for a caller who may have all of them.

        Raises AccessDenied, NotFound or SourceUnreachable for one who may not, as far as is known.
        """
        if not paths:
            return Located()
        query = CatalogQuery(paths, token)
        known = self._answers.get(query)
        if known is not None:
            return known
        with spans.span("floxhub.locate", **{"cri_proxy.paths": len(paths)}):
            try:
                locations = await self._pool.call(protocol.LOCATIONS, query)
                located = Located(tuple(locations))
            except _NO_ANSWER as refusal:
                located = Located(refusal=refusal)
        if isinstance(located.refusal, errors.SourceUnreachable) and await self._pool.call(
            protocol.WAS_GIVEN, query
        ):
            _log.warning("catalog unavailable, its last answer is used", why=located.refusal)
            return located
        self._warn_of_unsupported(located.places)
        listed = {name for place in located.places for name in place.paths}
        unlisted = [path for path in paths if path.basename not in listed]
        if unlisted:
            await self._find(unlisted, located, query)
        await self._pool.call(protocol.NOTE_GIVEN, CatalogGrant(query, is_given=True))
        if located.refusal is None:
            self._answers[query] = located
        return located

    def _warn_of_unsupported(self, places: Sequence[Location]) -> None:
        """Warn of logins that cannot be used: once for each catalog and kind."""
        for place in places:
            login = place.unsupported
            if login is None or login in self._warned:
                continue
            self._warned[login] = True
            _log.warning(
                "login of an unsupported kind is not used",
                catalog=login.catalog,
                kind=login.kind,
                location=url_of(place),
                advice="copy its packages to a cache with another login, or without any, and "
                "name that in store.caches",
            )

    async def _find(
        self, unlisted: Sequence[StorePath], located: Located, query: CatalogQuery
    ) -> None:
        """Make sure that caches have what the catalog does not list; else refuse."""
        try:
            await self._store.find(unlisted, located.places)
        except errors.CriProxyError as error:
            if not isinstance(located.refusal, errors.SourceUnreachable):
                await self._pool.call(protocol.NOTE_GIVEN, CatalogGrant(query, is_given=False))
            if located.refusal is not None:
                raise located.refusal from error
            whom = "this token" if query.token else "a pod without a token"
            raise type(error)(
                f"FloxHub's catalog names no place of a published package to {whom}: "
                f"give the token access to the catalog, or publish the package again ({error})"
            ) from error
