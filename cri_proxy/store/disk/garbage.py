"""Garbage: what of environments and store paths can go, and its slow end.

The jobs run in workers of the lowest priority; the daemon and `cri-proxy gc` call them. `PLAN`
only reads, `PATHS` takes away store paths that no environment has and no realization has used,
`EMPTY` deletes what was taken away, and `MEASURE` counts the store paths in place.

Environments themselves are taken away by whoever holds their leases, not here. Whatever is taken
away is renamed at once into a `.garbage` beside its place, so half of it is never in place, and
deleted from there piece by piece, now and after any crash.

A store path goes when no view has it and its record was not used since the oldest realization under
way began, or for `unused_seconds` if none is. Every realization takes a lease first and then uses
the record of each path that it counts on (`local.Store.record`); so either the path is used after
the horizon, which `local.Store.drop` sees, or the realization finds it absent and fetches it.

`decide` is pure: who goes, least recently started first.
"""

from __future__ import annotations

import collections
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable, priority, scheduling
from cri_proxy.lib.job import NOTHING, Job, Jobs, Task
from cri_proxy.model import environments, references, storepaths
from cri_proxy.model.references import Reference
from cri_proxy.store.disk import leases, staging
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

_MARGIN_SECONDS: Final = 0.1  # times of files come from a coarser clock than time.time
_BREATH_FILES: Final = 100
_BREATH_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Present:
    """An environment in place: its record's reference, its store paths, its last start."""

    identity: str
    reference: str
    mode: str
    last_start: float
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may go: not started for `age_seconds` (None: any), never within `grace_seconds`.

    `wanted_bytes` ends the choice of those that are younger than the age: so much is to be freed,
    None for all that can be.
    """

    grace_seconds: float
    age_seconds: float | None = None
    wanted_bytes: int | None = 0


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one environment: it goes and frees so many bytes, or `holders` keep it."""

    identity: str
    reference: str
    mode: str
    last_start: float
    frees: int
    goes: bool
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan with: who holds which identities, who wants which references, the rules."""

    held: Mapping[str, Sequence[str]]
    wanted: Mapping[str, Sequence[str]]
    rules: Rules


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Some store paths: how many, and their size."""

    paths: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What a collection would do: every environment's fate, and what is in the store.

    `paths` of the store would be removed; `loose_bytes` are those of paths in no environment.
    """

    fates: tuple[Fate, ...]
    paths: int
    loose_bytes: int
    store: StoreSize

    @property
    def going(self) -> tuple[Fate, ...]:
        """The environments that go, least recently started first."""
        return tuple(each for each in self.fates if each.goes)

    @property
    def frees(self) -> int:
        """How many bytes, by the size of store paths."""
        return self.loose_bytes + sum(each.frees for each in self.going)


PLAN: Final = Job("garbage.plan", PlanRequest, NOTHING, CollectionPlan)
PATHS: Final = Job("garbage.paths", float, NOTHING, StoreSize)
"""The argument is for how many seconds a path must have been unused."""
EMPTY: Final = Job("garbage.empty", NOTHING, NOTHING, int)
"""The result is how many files were deleted."""
MEASURE: Final = Job("garbage.measure", NOTHING, NOTHING, StoreSize)


def decide(
    present: Sequence[Present],
    sizes: Mapping[str, int],
    holders: Mapping[str, Sequence[str]],
    rules: Rules,
    now: float,
) -> list[Fate]:
    """Return the fate of every environment, least recently started first.

    `sizes` are bytes of the store paths; `holders` says who holds an environment, by identity.
    What an environment frees are the paths that none of those has that stay, or go later.
    """
    users = collections.Counter(path for each in present for path in each.paths)
    left = rules.wanted_bytes
    fates = []
    for each in sorted(present, key=lambda each: (each.last_start, each.identity)):
        held = tuple(holders.get(each.identity, ()))
        idle = now - each.last_start
        if not held and idle < rules.grace_seconds:
            held = ("it was started a moment ago",)
        is_old = rules.age_seconds is not None and idle >= rules.age_seconds
        goes = not held and (is_old or left is None or left > 0)
        frees = 0
        if goes:
            users.subtract(each.paths)
            frees = sum(sizes.get(path, 0) for path in each.paths if not users[path])
            left = None if left is None else left - frees
        fates.append(
            Fate(
                identity=each.identity,
                reference=each.reference,
                mode=each.mode,
                last_start=each.last_start,
                frees=frees,
                goes=goes,
                holders=held,
            )
        )
    return fates


def jobs(root: Path) -> Jobs:
    """Return the jobs for the node's state below `root`."""
    yard = _Yard(root)
    return Jobs(
        PLAN.run_by(yard.plan),
        PATHS.run_by(yard.paths),
        EMPTY.run_by(yard.empty),
        MEASURE.run_by(yard.measure),
    )


def matching(reference: Reference, present: Iterable[Present]) -> list[str]:
    """Return which environments whoever asks for `reference` would most likely get again.

    The pinned generation, or the one that was started last, in each mode.
    """
    latest: dict[str, Present] = {}
    for each in present:
        found = references.parse(each.reference)
        if (found.owner, found.name) != (reference.owner, reference.name):
            continue
        if reference.is_pinned and found.generation != reference.generation:
            continue
        best = latest.get(each.mode)
        if best is None or best.last_start < each.last_start:
            latest[each.mode] = each
    return [each.identity for each in latest.values()]


class _Yard:
    """The node's environments and store, as the jobs see them."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        self._views = Views(root / "environments", self._store)
        self._running = leases.Realizations(root / "store")

    def plan(self, argument: PlanRequest, task: Task[None]) -> CollectionPlan:
        """Return what would go."""
        task.check()
        present = self._present()
        holders: dict[str, list[str]] = collections.defaultdict(list)
        for identity, who in argument.held.items():
            holders[identity] += who
        for reference, who in argument.wanted.items():
            for identity in matching(references.parse(reference), present):
                holders[identity] += who
        sizes = self._sizes()
        fates = decide(present, sizes, holders, argument.rules, time.time())
        going = {each.identity for each in fates if each.goes}
        kept = {path for each in present if each.identity not in going for path in each.paths}
        had = {path for each in present for path in each.paths}
        loose = sizes.keys() - had
        return CollectionPlan(
            fates=tuple(fates),
            paths=len(sizes.keys() - kept),
            loose_bytes=sum(sizes[path] for path in loose),
            store=StoreSize(len(sizes), sum(sizes.values())),
        )

    def paths(self, unused_seconds: float, task: Task[None]) -> StoreSize:
        """Take away store paths, for `empty` to delete."""
        horizon = time.time()
        oldest = self._running.oldest()
        if oldest is not None:
            horizon = min(horizon, oldest)
        horizon -= unused_seconds + _MARGIN_SECONDS
        used = self._used()
        count = size = 0
        for path in self._store.paths():
            task.check()
            if path.basename in used:
                continue
            record = self._store.look(path)
            if self._store.drop(path, unused_since=horizon):
                count += 1
                size += 0 if record is None else record.nar_size
        return StoreSize(count, size)

    def empty(self, argument: None, task: Task[None]) -> int:
        """Delete everything in the `.garbage` directories, a little at a time; count the files."""
        priority.make_idle()
        files = 0
        for directory in (self._views.directory, self._store.directory):
            garbage = directory / staging.GARBAGE
            if not garbage.is_dir():
                continue
            # What was renamed into it must not come back half empty after a power failure.
            durable.sync_directory(directory)
            durable.sync_directory(garbage)
            for each in list(garbage.iterdir()):
                files += _Emptier(task.check).remove(each)
        return files

    def measure(self, argument: None, task: Task[None]) -> StoreSize:
        """Return what is in the store."""
        sizes = self._sizes()
        return StoreSize(len(sizes), sum(sizes.values()))

    def _present(self) -> list[Present]:
        """Return the environments in place whose records can be read."""
        found = []
        for identity in self._views.identities():
            place = self._views.locate(identity)
            try:
                record = environments.load(place)
                if record is None:
                    continue
                present = Present(
                    identity=identity,
                    reference=str(record.reference),
                    mode=str(record.mode),
                    last_start=leases.last_start(place),
                    paths=frozenset(_names(place / "store")),
                )
            except FileNotFoundError:
                continue
            except errors.ContentDamaged:
                continue  # not ours to judge; its paths stay, for `_used` reads the view
            found.append(present)
        return found

    def _sizes(self) -> dict[str, int]:
        """Return the size of every store path in place."""
        records = ((path.basename, self._store.look(path)) for path in self._store.paths())
        return {name: 0 if record is None else record.nar_size for name, record in records}

    def _used(self) -> set[str]:
        """Return the store paths that views have, those being made included."""
        used: set[str] = set()
        for directory in (self._views.directory, self._views.directory / ".stage"):
            with contextlib.suppress(FileNotFoundError):
                for each in list(directory.iterdir()):
                    if each.name not in {staging.GARBAGE, ".stage"}:
                        used.update(_names(each / "store"))
        return used


class _Emptier:
    """Deletes a tree with a breath now and then; others may be deleting the same one."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._files = 0

    def remove(self, path: Path) -> int:
        """Delete the tree at `path`; return how many entries it had."""
        try:
            parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return 0
        try:
            self._entry(path.name, parent)
        finally:
            os.close(parent)
        return self._files

    def _entry(self, name: str, parent: int) -> None:
        self._files += 1
        scheduling.give_way()
        if self._files % _BREATH_FILES == 0:
            self._check()
            time.sleep(_BREATH_SECONDS)
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                return
            directory = durable.open_directory(name, parent)
            try:
                for entry in os.listdir(directory):  # noqa: PTH208 - relative to the descriptor
                    self._entry(entry, directory)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return


def _names(store: Path) -> list[str]:
    """Return the store paths that a view has; none when there is no view."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [name for name in os.listdir(store) if _is_path(name)]  # noqa: PTH208
    return []


def _is_path(name: str) -> bool:
    try:
        storepaths.of_basename(name)
    except errors.RequestInvalid:
        return False
    return True
