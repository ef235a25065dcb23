"""Rendering: from the trees of an environment's packages to the one tree of FLOX_ENV.

What Flox's buildenv does, decided here without touching a disk: `plan` asks for directory listings
and returns symbolic links. A name that one package has becomes one link, directories included; a
directory that several have is made, and its entries are merged the same way. Between files of one
name the lower priority number wins; equal numbers are a conflict, unless both lead to the same file
or one side may collide (outputs that the manifest does not install, propagated packages).

Source of the rules: the merging that Flox and nixpkgs document for buildEnv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub.outputs import STEPS
from cri_proxy.model.lockfiles import LinkedOutput
from cri_proxy.model.storepaths import StorePath

# Written by tools for their own package only; meaningless in a merged tree.
_IGNORED_PATHS: Final = frozenset({"propagated-build-inputs", "nix-support", "info/dir"})
_IGNORED_NAMES: Final = frozenset({"log", "perllocal.pod"})
_MIME: Final = "share/mime"
_MIME_KEPT: Final = "packages"


class TargetKind(Enum):
    """The kind of file that a path leads to, after all its symbolic links."""

    FILE = "file"
    DIRECTORY = "directory"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory of the store: what it leads to, and where that really is."""

    kind: TargetKind
    resolved: str


Listing = Callable[[str], Mapping[str, Entry]]
"""Entries by name of a directory of the store, `/nix/store/…`; empty when it is no directory."""


@dataclass(slots=True)
class TreePlan:
    """The tree of FLOX_ENV: directories to make and symbolic links, by relative path."""

    directories: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A package's entry for a name that several packages may have."""

    source: str
    entry: Entry
    linked: LinkedOutput


def plan(packages: Iterable[LinkedOutput], listing: Listing) -> TreePlan:
    """Return how to lay `packages` into one tree.

    Raises EnvironmentUnsuitable naming both packages and the path when two of equal priority claim
    it. A package that is no directory is left out: there is no name under which to link it.
    """
    result = TreePlan()
    best: dict[StorePath, LinkedOutput] = {}  # each store path once, at its best priority
    for linked in packages:
        known = best.get(linked.path)
        if known is None or linked.priority < known.priority:
            best[linked.path] = linked
    roots = [
        _Candidate(str(linked.path), Entry(TargetKind.DIRECTORY, str(linked.path)), linked)
        for linked in sorted(best.values(), key=lambda each: each.priority)
    ]
    _merge("", roots, listing, result)
    return result


def _merge(at: str, sources: list[_Candidate], listing: Listing, result: TreePlan) -> None:
    """Lay the entries of all `sources`, directories that share the place `at`, into `result`."""
    claims: dict[str, list[_Candidate]] = {}
    for source in sources:
        for name, entry in listing(source.source).items():
            if not _is_ignored(at, name):
                claim = _Candidate(f"{source.source}/{name}", entry, source.linked)
                claims.setdefault(name, []).append(claim)
    for name in sorted(claims):
        place = f"{at}/{name}" if at else name
        candidates = claims[name]
        if len(candidates) == 1 and place != _MIME:
            result.links[place] = candidates[0].source
        elif all(candidate.entry.kind is TargetKind.DIRECTORY for candidate in candidates):
            result.directories.append(place)
            _merge(place, candidates, listing, result)
        else:
            result.links[place] = _winner(place, candidates).source


def _winner(place: str, candidates: list[_Candidate]) -> _Candidate:
    """Return the candidate that gets `place`: the first in precedence, if no other is equal."""
    first, *others = candidates
    for other in others:
        is_equal = other.linked.priority == first.linked.priority
        is_same = other.entry == first.entry and first.entry.kind is not TargetKind.NOTHING
        if is_equal and not is_same and not (first.linked.may_collide or other.linked.may_collide):
            priority = first.linked.priority // STEPS  # as the manifest has it
            raise errors.EnvironmentUnsuitable(
                f"packages {first.linked.install_id!r} and {other.linked.install_id!r} both bring "
                f"{place} with priority {priority}: uninstall one of them or give one another "
                "priority in the manifest, then push the environment"
            )
    return first


def _is_ignored(at: str, name: str) -> bool:
    place = f"{at}/{name}" if at else name
    if place in _IGNORED_PATHS or name in _IGNORED_NAMES or place.endswith("/info/dir"):
        return True
    return at == _MIME and name != _MIME_KEPT
