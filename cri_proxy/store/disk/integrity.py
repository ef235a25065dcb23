"""Integrity: whether what is in place is still what was verified when it came.

The jobs run in workers. `PATHS` hashes store paths again, `VIEWS` compares views with the store,
and `MEND` repairs views whose damaged paths are present anew.

What is found is quarantined there and then:
the store path counts as absent, so that whoever needs it fetches it, and nothing starts in an
environment that has it before its view was mended. What runs goes on: the damaged files stay where
they are until whole ones take their places.

A file of a view is the store's own by a hard link, so its contents are proved with the store's. Of
a view it remains to be shown that it has the same files. What is rendered for an environment
(FLOX_ENV) has no hash that it came with; only that it is there is looked at.
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
from cri_proxy.lib import priority
from cri_proxy.lib.job import NOTHING, Job, Jobs, Task
from cri_proxy.model import environments
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views

_REPORTED_SECONDS: Final = 0.2
_CHANGED: Final = "its contents are not those that were verified when it was fetched"
_RECORD: Final = "its record cannot be read"
_MISSING: Final = "it is missing from the store"
_OTHER: Final = "an environment's files of it are not the store's"


@dataclass(slots=True)
class Damage:
    """A store path that is not what it should be, and which environments have it."""

    path: str
    why: str
    environments: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HashRequest:
    """Which store paths to hash: those behind `after`, in the order of their names.

    For at most `seconds`, and no faster than `bytes_per_second`; None is without a bound.
    """

    after: str = ""
    seconds: float | None = None
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class HashProgress:
    """How many of the store paths have been hashed, and how many bytes they had."""

    checked: int
    of: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HashFindings:
    """What hashing found; `next` is the last path that was hashed, None at the end of the store."""

    checked: int
    bytes: int
    damaged: list[Damage]
    next: str | None


@dataclass(frozen=True, slots=True)
class ViewFindings:
    """How many environments were compared with the store, and what of them is damaged."""

    environments: int
    damaged: list[Damage]


PATHS: Final = Job("integrity.paths", HashRequest, HashProgress, HashFindings)
VIEWS: Final = Job("integrity.views", NOTHING, NOTHING, ViewFindings)
MEND: Final = Job("integrity.mend", NOTHING, NOTHING, list[str])
"""The result are the identities of the environments that were repaired."""


def jobs(root: Path) -> Jobs:
    """Return the jobs for the node's state below `root`."""
    integrity = _Integrity(root)
    return Jobs(
        PATHS.run_by(integrity.paths),
        VIEWS.run_by(integrity.views),
        MEND.run_by(integrity.mend),
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
            priority.make_idle()
        end = None if seconds is None else time.monotonic() + seconds
        pace = _Pace(rate, task)
        found: list[Damage] = []
        checked, last = 0, argument.after
        todo = [path for path in self._store.paths() if path.basename > last]
        for path in todo:
            if end is not None and time.monotonic() >= end:
                return pace.result(checked, found, last)
            if not self._store.is_damaged(path):
                why = self._fault_of(path, pace)
                if why and self._fault_of(path, pace):  # it may just have been replaced
                    found.append(self._quarantine(path, why))
            else:
                found.append(self._quarantine(path, _CHANGED))
            checked, last = checked + 1, path.basename
            pace.tell(checked, len(todo))
        return pace.result(checked, found, None)

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
                        self._views.condemn(identity, [path])
                    except FileNotFoundError:  # removed meanwhile
                        break
                    finding = found.setdefault(path.basename, Damage(path.basename, why))
                    finding.environments.append(identity)
        return ViewFindings(len(identities), list(found.values()))

    def mend(self, argument: None, task: Task[None]) -> list[str]:
        """Repair the views whose damaged paths are all present again; return their identities."""
        mended = []
        for identity in self._views.identities():
            damaged = self._views.damaged(identity)
            if damaged and all(self._store.record(path) is not None for path in damaged):
                self._views.mend(identity, task.check)
                mended.append(identity)
        return mended

    def _fault_of(self, path: StorePath, pace: _Pace) -> str:
        """Return what is wrong with a store path; empty if nothing is, or it is gone."""
        record = self._store.look(path)
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
        """Return how a view's copy of a path differs from the store's, empty if it does not."""
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
        """Have nothing new start on a damaged path."""
        self._store.condemn(path)
        finding = Damage(path.basename, why)
        for identity in self._views.identities():
            if os.path.lexists(self._views.locate(identity) / "store" / path.basename):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    self._views.condemn(identity, [path])
                    finding.environments.append(identity)
        return finding


class _Pace:
    """Counts what is read, keeps it below a rate, and tells how far it has come."""

    def __init__(self, rate: int | None, task: Task[HashProgress]) -> None:
        self._rate = rate
        self._task = task
        self._began = time.monotonic()
        self._told = 0.0
        self.bytes = 0

    def take(self, count: int) -> None:
        """Count bytes that were read; wait until so many may have been."""
        self._task.check()
        self.bytes += count
        if self._rate is not None:
            early = self.bytes / self._rate - (time.monotonic() - self._began)
            if early > 0:
                time.sleep(early)

    def tell(self, checked: int, of: int) -> None:
        """Report how far it is, a few times a second."""
        now = time.monotonic()
        if now - self._told >= _REPORTED_SECONDS or checked == of:
            self._told = now
            self._task.report(HashProgress(checked, of, self.bytes))

    def result(self, checked: int, found: list[Damage], last: str | None) -> HashFindings:
        """Return the result of the job."""
        return HashFindings(checked, self.bytes, found, last)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two trees have the same files under the same names; copies count as the same."""
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
