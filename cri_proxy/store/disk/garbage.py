"""Garbage collection: what can be deleted, and deleting it at low priority.

The jobs run in workers of the lowest priority; the daemon and `cri-proxy gc` call them. `PLAN`
only reads, `PATHS` removes store paths that no environment has and no realization has used, `EMPTY`
deletes what was removed, and `MEASURE` counts the store paths in place.

Environments are removed by the holder of their leases, not here. Removing renames into a `.garbage`
beside the place, so half of a tree is never in place; deleting happens there, piece by piece, and
continues after any crash. `decide` is pure: which environments to remove.

A store path is removed if no view has it and its record was not used since the horizon, which is
`unused_seconds` before the oldest realization under way began, or before now if none is. Every
realization first takes a lease, and then uses the record of each path that it relies on
(`local.Store.record`). So either the path was used after the horizon, which `local.Store.evict`
notices, or the realization finds it absent and fetches it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable, scheduling
from cri_proxy.lib.job import NOTHING, Job, Jobs, Task
from cri_proxy.model import environments, references
from cri_proxy.model.references import Reference
from cri_proxy.store.disk import leases, local, staging
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

_MARGIN_SECONDS: Final = 0.1  # times of files come from a coarser clock than time.time
_PAUSE_FILES: Final = 100
_PAUSE_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class _Known:
    identity: str
    reference: str
    mode: str
    last_start: float


@dataclass(frozen=True, slots=True)
class Candidate(_Known):
    """An environment in place: its reference, its store paths, its last start."""

    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be removed, by the time since the last start: never within `grace_seconds`.

    Environments idle for `age_seconds` are always removed (None: no age is enough), younger ones
    only until `wanted_bytes` are freed (None: as much as possible).
    """

    grace_seconds: float
    age_seconds: float | None = None
    wanted_bytes: int | None = 0


@dataclass(frozen=True, slots=True)
class Decision(_Known):
    """The decision on one environment: it is removed and frees bytes, or its `roots` keep it."""

    freed_bytes: int
    is_removed: bool
    roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan with: the GC roots, by identity and by reference, and the rules."""

    identities: Mapping[str, Sequence[str]]
    references: Mapping[str, Sequence[str]]
    rules: Rules


@dataclass(frozen=True, slots=True)
class StoreSize:
    """The number and total size of some store paths."""

    paths: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What a collection would do with environments and store paths.

    `paths` of the store would be removed; `unreferenced_bytes` are those that no environment has.
    """

    decisions: tuple[Decision, ...]
    paths: int
    unreferenced_bytes: int

    @property
    def removals(self) -> tuple[Decision, ...]:
        """The environments to remove, least recently started first."""
        return tuple(each for each in self.decisions if each.is_removed)

    @property
    def freed_bytes(self) -> int:
        """The bytes that are freed, by the sizes of store paths."""
        return self.unreferenced_bytes + sum(each.freed_bytes for each in self.removals)


PLAN: Final = Job("garbage.plan", PlanRequest, NOTHING, CollectionPlan)
PATHS: Final = Job("garbage.paths", float, NOTHING, StoreSize)
"""The argument is the seconds for which a path must have been unused."""
EMPTY: Final = Job("garbage.empty", NOTHING, NOTHING, int)
"""The result is the number of deleted files."""
MEASURE: Final = Job("garbage.measure", NOTHING, NOTHING, StoreSize)


def decide(
    candidates: Sequence[Candidate],
    sizes: Mapping[str, int],
    roots: Mapping[str, Sequence[str]],
    rules: Rules,
    now: float,
) -> list[Decision]:
    """Decide on every environment, least recently started first.

    `sizes` are the bytes of store paths; `roots` are an environment's GC roots, by identity. An
    environment frees the paths that no environment has that stays or is removed later.
    """
    users = collections.Counter(path for each in candidates for path in each.paths)
    left = rules.wanted_bytes
    decisions = []
    for each in sorted(candidates, key=lambda each: (each.last_start, each.identity)):
        kept_by = tuple(roots.get(each.identity, ()))
        idle = now - each.last_start
        if not kept_by and idle < rules.grace_seconds:
            kept_by = ("it was started recently",)
        is_old = rules.age_seconds is not None and idle >= rules.age_seconds
        is_removed = not kept_by and (is_old or left is None or left > 0)
        freed = 0
        if is_removed:
            users.subtract(each.paths)
            freed = sum(sizes.get(path, 0) for path in each.paths if not users[path])
            left = None if left is None else left - freed
        known = each.identity, each.reference, each.mode, each.last_start
        decisions.append(Decision(*known, freed_bytes=freed, is_removed=is_removed, roots=kept_by))
    return decisions


def jobs(root: Path) -> Jobs:
    """Return the jobs for the node's state below `root`."""
    collector = _Collector(root)
    return Jobs(
        PLAN.run_by(collector.plan),
        PATHS.run_by(collector.paths),
        EMPTY.run_by(collector.empty),
        MEASURE.run_by(collector.measure),
    )


def matching(reference: Reference, candidates: Iterable[Candidate]) -> list[str]:
    """Return the environments that `reference` most likely resolves to, one per mode.

    These have the pinned generation, or else the one that was started last.
    """
    latest: dict[str, Candidate] = {}
    for each in candidates:
        found = references.parse(each.reference)
        if (found.owner, found.name) != (reference.owner, reference.name):
            continue
        if reference.is_pinned and found.generation != reference.generation:
            continue
        best = latest.get(each.mode)
        if best is None or best.last_start < each.last_start:
            latest[each.mode] = each
    return [each.identity for each in latest.values()]


class _Collector:
    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        self._views = Views(root / "environments", self._store)
        self._running = leases.Realizations(root / "store")

    def plan(self, argument: PlanRequest, task: Task[None]) -> CollectionPlan:
        task.check()
        candidates = self._candidates()
        roots: dict[str, list[str]] = collections.defaultdict(list)
        for identity, names in argument.identities.items():
            roots[identity] += names
        for reference, names in argument.references.items():
            for identity in matching(references.parse(reference), candidates):
                roots[identity] += names
        sizes = self._sizes()
        decisions = decide(candidates, sizes, roots, argument.rules, time.time())
        removed = {each.identity for each in decisions if each.is_removed}
        kept = {path for each in candidates if each.identity not in removed for path in each.paths}
        had = {path for each in candidates for path in each.paths}
        loose = sizes.keys() - had
        return CollectionPlan(
            decisions=tuple(decisions),
            paths=len(sizes.keys() - kept),
            unreferenced_bytes=sum(sizes[path] for path in loose),
        )

    def paths(self, unused_seconds: float, task: Task[None]) -> StoreSize:
        """Take away store paths, for `empty` to delete."""
        oldest = self._running.oldest()
        began = time.time() if oldest is None else min(time.time(), oldest)
        horizon = began - unused_seconds - _MARGIN_SECONDS
        used = self._used()
        count = size = 0
        for path in self._store.paths():
            task.check()
            if path.basename in used:
                continue
            record = self._store.peek(path)
            if self._store.evict(path, unused_since=horizon):
                count += 1
                size += 0 if record is None else record.nar_size
        return StoreSize(count, size)

    def empty(self, argument: None, task: Task[None]) -> int:
        """Delete everything in the `.garbage` directories slowly; return the number of files."""
        scheduling.make_idle()
        files = 0

        def on_entry() -> None:
            nonlocal files
            files += 1
            scheduling.give_way()
            if files % _PAUSE_FILES == 0:
                task.check()
                time.sleep(_PAUSE_SECONDS)

        for directory in (self._views.directory, self._store.directory):
            garbage = directory / staging.GARBAGE
            if not garbage.is_dir():
                continue
            # After a power failure, what was renamed into it must not be back in place, half empty.
            durable.sync_directory(directory)
            durable.sync_directory(garbage)
            for each in list(garbage.iterdir()):
                durable.remove_tree(each, on_entry)
        return files

    def measure(self, argument: None, task: Task[None]) -> StoreSize:
        sizes = self._sizes()
        return StoreSize(len(sizes), sum(sizes.values()))

    def _candidates(self) -> list[Candidate]:
        found = []
        for identity in self._views.identities():
            place = self._views.locate(identity)
            # One that cannot be read is no candidate; `_used` keeps its paths.
            with contextlib.suppress(FileNotFoundError, errors.ContentDamaged):
                if record := environments.load(place):
                    found.append(
                        Candidate(
                            identity=identity,
                            reference=str(record.reference),
                            mode=str(record.mode),
                            last_start=leases.last_start(place),
                            paths=frozenset(_names(place / "store")),
                        )
                    )
        return found

    def _sizes(self) -> dict[str, int]:
        records = ((path.basename, self._store.peek(path)) for path in self._store.paths())
        return {name: 0 if record is None else record.nar_size for name, record in records}

    def _used(self) -> set[str]:
        """Return the store paths of all views, including those being made."""
        used: set[str] = set()
        for directory in (self._views.directory, self._views.directory / ".stage"):
            with contextlib.suppress(FileNotFoundError):
                for each in list(directory.iterdir()):
                    if each.name not in {staging.GARBAGE, ".stage"}:
                        used.update(_names(each / "store"))
        return used


def _names(store: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [name for name in os.listdir(store) if local.is_basename(name)]  # noqa: PTH208
    return []
