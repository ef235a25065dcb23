"""Integrity: verifies what is on disk again, quarantines what is damaged, repairs environments.

The jobs run in workers. `PATHS` hashes store paths again, `VIEWS` compares environments with the
store, and `REPAIR` repairs environments whose damaged paths are present again.

What is damaged is quarantined at once: the store path counts as absent, so that the next user
fetches it, and no container starts in an environment that has it until that is repaired. Running
containers go on: damaged files stay in place until intact ones replace them.

A file in an environment is a hard link to the store's, so hashing the store verifies its contents.
For environments it remains to check that they have the same files. What is rendered for an
environment (FLOX_ENV) has no hash to compare with; it is not checked here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling
from cri_proxy.lib.job import NOTHING, Job, Jobs, Task
from cri_proxy.model import environments
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

_REPORTED_SECONDS: Final = 0.2
_CHANGED: Final = "its contents have changed since they were verified"
_RECORD: Final = "its record is unreadable"
_MISSING: Final = "it is missing from the store"
_OTHER: Final = "an environment's copy of it differs from the store's"


@dataclass(slots=True)
class Damage:
    """A damaged store path, and the environments that have it."""

    path: str
    why: str
    environments: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HashRequest:
    """Which store paths to hash: those after `after`, in the order of their names.

    For at most `seconds`, and no faster than `bytes_per_second`; None means unlimited.
    """

    after: str = ""
    seconds: float | None = None
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class HashProgress:
    """How many of the store paths have been hashed, and their total size."""

    checked: int
    of: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HashFindings:
    """What hashing found; `next` is where to resume (`after`), None at the end of the store."""

    checked: int
    bytes: int
    damaged: list[Damage]
    next: str | None


@dataclass(frozen=True, slots=True)
class ViewFindings:
    """How many environments were compared with the store, and what is damaged in them."""

    environments: int
    damaged: list[Damage]


PATHS: Final = Job("integrity.paths", HashRequest, HashProgress, HashFindings)
VIEWS: Final = Job("integrity.views", NOTHING, NOTHING, ViewFindings)
REPAIR: Final = Job("integrity.repair", NOTHING, NOTHING, list[str])
"""The result is the identities of the environments that were repaired."""


def jobs(root: Path) -> Jobs:
    """Return the jobs for the node's state below `root`."""
    integrity = _Integrity(root)
    return Jobs(
        PATHS.run_by(integrity.paths),
        VIEWS.run_by(integrity.views),
        REPAIR.run_by(integrity.repair),
    )


class _Integrity:
    """The node's store and views, as the jobs see them."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        self._views = Views(root / "environments", self._store)

    def paths(self, argument: HashRequest, task: Task[HashProgress]) -> HashFindings:
        """Hash store paths; quarantine what differs."""
        seconds, rate = argument.seconds, argument.bytes_per_second
        if rate is not None:
            scheduling.make_idle()
        end = None if seconds is None else time.monotonic() + seconds
        pace = _Pace(rate, task)
        found: list[Damage] = []
        checked, last = 0, argument.after
        todo = [path for path in self._store.paths() if path.basename > last]
        for path in todo:
            if end is not None and time.monotonic() >= end:
                return HashFindings(checked, pace.bytes, found, next=last)
            if not self._store.is_damaged(path):
                why = self._fault_of(path, pace)
                if why and self._fault_of(path, pace):  # it may just have been replaced
                    found.append(self._quarantine(path, why))
            else:
                found.append(self._quarantine(path, _CHANGED))
            checked, last = checked + 1, path.basename
            pace.report(checked, len(todo))
        return HashFindings(checked, pace.bytes, found, next=None)

    def views(self, argument: None, task: Task[None]) -> ViewFindings:
        """Compare every view with the store; quarantine what differs."""
        found: dict[str, Damage] = {}
        identities = self._views.identities()
        for identity in identities:
            task.check()
            place = self._views.locate(identity)
            with contextlib.suppress(errors.ContentDamaged):
                record = environments.load(place)
                if record is None:
                    continue
                for path in record.closure:
                    why = "" if path == record.flox_env else self._difference_of(path, place)
                    if not why:
                        continue
                    try:
                        self._views.quarantine(identity, [path])
                    except FileNotFoundError:  # removed meanwhile
                        break
                    finding = found.setdefault(path.basename, Damage(path.basename, why))
                    finding.environments.append(identity)
        return ViewFindings(len(identities), list(found.values()))

    def repair(self, argument: None, task: Task[None]) -> list[str]:
        """Repair the views whose damaged paths are all present again; return their identities."""
        repaired = []
        for identity in self._views.identities():
            damaged = self._views.damaged(identity)
            if damaged and all(self._store.record(path) is not None for path in damaged):
                self._views.repair(identity, task.check)
                repaired.append(identity)
        return repaired

    def _fault_of(self, path: StorePath, pace: _Pace) -> str:
        """Return what is wrong with a store path; empty if nothing is, or if it is gone."""
        record = self._store.peek(path)
        if record is None:
            return _RECORD if self._store.has(path) else ""
        digest, before = hashlib.sha256(), pace.bytes

        def take(piece: bytes) -> None:
            digest.update(piece)
            pace.take(len(piece))

        try:
            nar.write(self._store.locate(path), take)
        except FileNotFoundError:
            return _CHANGED if self._store.has(path) else ""
        except (errors.ContentDamaged, OSError) as error:
            return f"it cannot be read ({error})"
        is_same = (digest.digest(), pace.bytes - before) == (record.nar_hash, record.nar_size)
        return "" if is_same else _CHANGED

    def _difference_of(self, path: StorePath, place: Path) -> str:
        """Return what is wrong with a view's copy of a path; empty if nothing is."""
        ours = self._store.locate(path)
        if self._store.is_damaged(path):
            return _CHANGED
        if not self._store.has(path):
            return _MISSING
        try:
            return "" if _is_same(ours, place / "store" / path.basename) else _OTHER
        except OSError:
            return _OTHER

    def _quarantine(self, path: StorePath, why: str) -> Damage:
        """Quarantine a path, and the views that have it."""
        self._store.quarantine(path)
        finding = Damage(path.basename, why)
        for identity in self._views.identities():
            if os.path.lexists(self._views.locate(identity) / "store" / path.basename):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    self._views.quarantine(identity, [path])
                    finding.environments.append(identity)
        return finding


class _Pace:
    """Counts what is read, limits its rate, and reports progress."""

    def __init__(self, rate: int | None, task: Task[HashProgress]) -> None:
        self._rate = rate
        self._task = task
        self._began = time.monotonic()
        self._reported = 0.0
        self.bytes = 0

    def take(self, count: int) -> None:
        """Count bytes that were read, and wait as the rate demands."""
        self._task.check()
        self.bytes += count
        if self._rate is not None:
            early = self.bytes / self._rate - (time.monotonic() - self._began)
            if early > 0:
                time.sleep(early)

    def report(self, checked: int, of: int) -> None:
        """Report progress, a few times a second."""
        now = time.monotonic()
        if now - self._reported >= _REPORTED_SECONDS or checked == of:
            self._reported = now
            self._task.report(HashProgress(checked, of, self.bytes))


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two trees have equal files under equal names, be they links or copies."""
    first, second = one.lstat(), other.lstat()
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        return False
    if os.path.samestat(first, second):
        return True
    if stat.S_ISLNK(first.st_mode):
        return one.readlink() == other.readlink()
    if not stat.S_ISDIR(first.st_mode):
        return nar.digest_of(one) == nar.digest_of(other)
    names = sorted(os.listdir(one))  # noqa: PTH208 - names are what is compared
    if names != sorted(os.listdir(other)):  # noqa: PTH208
        return False
    return all(_is_same(one / name, other / name) for name in names)
