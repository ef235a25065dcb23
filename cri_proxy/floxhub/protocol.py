"""The jobs of FloxHub that workers do for the daemon, and the values that these carry.

Both sides import this module, which loads neither git nor HTTP: only workers need those. Tokens
travel in arguments, over the worker's pipe, and nowhere else; no repr has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy.lib.job import NOTHING, Job
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Where FloxHub is; `directory` is the node's memory of it (`records`)."""

    directory: Path
    git_url: str
    api_url: str
    timeout_seconds: float
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask which generation a reference means, with the token of the caller."""

    reference: Reference
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which generation a reference means, and where its lockfile is on this node.

    `reference` is pinned; `revision` is the commit, for audit; `lock_digest` is the SHA-256 of the
    file in hexadecimal; `is_stale` when FloxHub could not be asked now.
    """

    reference: Reference
    revision: str
    lock_digest: str
    lockfile: Path
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class CatalogQuery:
    """Some published packages, and the token of the caller."""

    paths: tuple[StorePath, ...]
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class CatalogGrant:
    """The catalog's decision on a query, to be remembered: the packages were given, or refused."""

    query: CatalogQuery
    is_given: bool


RESOLVE: Final = Job("floxhub.resolve", Resolve, NOTHING, Resolution)
LOCATIONS: Final = Job("floxhub.locations", CatalogQuery, NOTHING, list[Location])
"""The result are the caches that the catalog lists for the packages, each once."""
WAS_GIVEN: Final = Job("floxhub.was_given", CatalogQuery, NOTHING, bool)
"""The result is whether the caller was given the packages the last time."""
NOTE_GIVEN: Final = Job("floxhub.note_given", CatalogGrant, NOTHING, NOTHING)
FORGET: Final = Job("floxhub.forget", float, NOTHING, int)
"""Removes what was not used for so many seconds; the result is how many files."""
