"""Locations: binary caches that one realization may use besides the configured ones.

FloxHub's catalog says where published packages are kept, with logins and keys. Both belong to the
caller: the logins go to these caches alone and live as long as the realization, and the keys are
trusted for what these caches give and nothing else. They come over the worker's pipe
(`model.cachelocations`).

A path is requested first from the locations that list it. For the rest of the closure, which may
contain the publisher's own dependencies, all locations come after the configured caches.
`variables` log in to a bucket (`buckets`). Unsupported locations raise an error that says what to
do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from cri_proxy import errors
from cri_proxy.http.client import Client
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import signatures
from cri_proxy.store.caches import buckets, cache
from cri_proxy.store.caches.cache import Cache
from cri_proxy.store.nar import ByteSource
from cri_proxy.store.protocol import url_of
from cri_proxy.store.signatures import Keyring, PublicKey
from cri_proxy.telemetry import logs

_READ: Final = frozenset({"https", "http"})
_log = logs.of(__name__)


class Locations:
    """The locations of one job; `trusted` are the keys that the settings trust anyway."""

    def __init__(
        self, locations: Sequence[Location], client: Client, trusted: Sequence[PublicKey]
    ) -> None:
        self._keyrings: dict[Cache, Keyring] = {}
        self._by_path: dict[str, list[Cache]] = {}
        for each in locations:
            made = _cache_of(each, client)
            self._keyrings[made] = Keyring((*trusted, *_keys_of(each, made)))
            for basename in each.paths:
                self._by_path.setdefault(basename, []).append(made)

    def in_order(self, path: StorePath, configured: Sequence[Cache]) -> Sequence[Cache]:
        """Return all caches in the order to ask them for `path`."""
        first = self._by_path.get(path.basename, [])
        last = [each for each in self._keyrings if each not in first]
        return (*first, *configured, *last)

    def at(self, url: str) -> Cache | None:
        """Return the location whose URL, without its login, is `url`."""
        return next((each for each in self._keyrings if each.url == url), None)

    def keyring_of(self, source: Cache) -> Keyring | None:
        """Return the keys that are trusted for what `source` gives; None if it is no location."""
        return self._keyrings.get(source)


class _Unreadable(Cache):
    """A location of an unsupported kind, for a `reason`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url)
        self._reason = reason

    def greet(self) -> None:
        """Do nothing: it cannot be asked."""

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Refuse, and say what to do instead."""
        raise errors.NotFound(
            f"FloxHub keeps it there, where cri-proxy does not read it ({self._reason}): copy the "
            "package to a binary cache behind https, and name that in store.caches"
        )
        yield


def _cache_of(location: Location, client: Client) -> Cache:
    """Return the cache at a location; never a directory of this node."""
    scheme = urlsplit(location.url).scheme
    login = None if location.user is None else (location.user, location.password or "")
    try:
        if scheme == "s3":
            return buckets.of_url(location.url, dict(location.variables), client)
    except errors.RequestInvalid as error:
        return _Unreadable(url_of(location), str(error))
    with contextlib.suppress(errors.RequestInvalid):
        if scheme in _READ and not location.variables:
            return cache.of_url(location.url, client, login=login)
    return _Unreadable(url_of(location), "it is of another kind")


def _keys_of(location: Location, made: Cache) -> Iterator[PublicKey]:
    """Yield a location's keys; one that cannot be read trusts nothing."""
    for text in location.public_keys:
        try:
            yield signatures.parse_public(text)
        except errors.RequestInvalid as error:
            _log.warning("key of a location cannot be used", location=made.url, why=error)
