"""The jobs of the store that workers do for the daemon, and the values that these carry.

Both sides import this module, which loads neither HTTP nor decompression nor cryptography: only
workers need those. Store paths are basenames here, since closures have thousands of references.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from cri_proxy.errors import ErrorRecord
from cri_proxy.lib.job import NOTHING, Job
from cri_proxy.lib.timings import Timing
from cri_proxy.model.cachelocations import Location


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Other nodes: names under which to find them, and this node's own address if it serves."""

    names: tuple[str, ...] = ()
    listen: str = ""


@dataclass(frozen=True, slots=True)
class NixOptions:
    """The node's own Nix: the directory of its programs, empty for PATH, and NIX_REMOTE."""

    directory: str = ""
    remote: str = ""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store of a worker: its directory, its caches, the trusted keys.

    `kind` is "own" or "nix". `connections` are the lookups at a time by threads of this worker,
    `node_connections` how wide a survey may be, `timeout_seconds` how long a cache may be silent.
    """

    directory: Path
    caches: tuple[str, ...]
    keys: tuple[str, ...]
    connections: int
    node_connections: int
    timeout_seconds: float
    kind: str = "own"
    ca_file: Path | None = None
    peers: PeerOptions = field(default_factory=PeerOptions)
    nix: NixOptions = field(default_factory=NixOptions)


class Found(msgspec.Struct, frozen=True, gc=False):
    """Where a survey found an absent path: a cache by its URL, and the narinfo that it has.

    `file_size` is the size of the archive, None where the narinfo does not say.
    """

    cache: str
    narinfo: str
    file_size: int | None = None


class Fact(msgspec.Struct, frozen=True, gc=False):
    """A path of a closure; `found` is None if it is present."""

    path: str
    references: tuple[str, ...]
    nar_size: int
    found: Found | None = None


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """A path that is present now."""

    fact: Fact
    timings: list[Timing]


class FetchFailed(msgspec.Struct, frozen=True, tag="failed"):
    """A path that could not be fetched."""

    path: str
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class Survey:
    """Find all paths of the closure of `roots`, with at most `width` requests at a time."""

    roots: tuple[str, ...]
    width: int
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class Find:
    """Make sure that caches have all of `paths`."""

    paths: tuple[str, ...]
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch one path, which a survey found there."""

    path: str
    found: Found
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchFew:
    """Fetch several small paths from configured caches, at most `width` at a time."""

    paths: tuple[Fetch, ...]
    width: int


@dataclass(frozen=True, slots=True)
class NixProgress:
    """How many paths Nix is going to fetch, or how many it has fetched."""

    total: int | None = None
    copied: int | None = None


SURVEY: Final = Job("store.survey", Survey, list[Fact], list[Fact])
"""Reports the facts of paths as they are found; the result are those not reported."""
FIND: Final = Job("store.find", Find, NOTHING, NOTHING)
FETCH: Final = Job("store.fetch", Fetch, int, Fetched)
"""Reports how many bytes of the NAR have arrived."""
FETCH_FEW: Final = Job(
    "store.fetch_few", FetchFew, list[Fetched | FetchFailed], list[Fetched | FetchFailed]
)
"""Reports how each path ended; the result are those not reported."""
RECOVER: Final = Job("store.recover", NOTHING, NOTHING, NOTHING)
NIX_REALISE: Final = Job("store.nix.realise", list[str], NixProgress, list[Fact])
NIX_FIND: Final = Job("store.nix.find", list[str], NOTHING, NOTHING)
NIX_RECOVER: Final = Job("store.nix.recover", NOTHING, NOTHING, NOTHING)


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: login, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def url_of(location: Location) -> str:
    """Return a location's URL without login or query, as it may be shown."""
    return shown(location.url).rstrip("/")
