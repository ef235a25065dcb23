"""The store on this node's disk: verified store paths, each with a record of what was verified.

    store/<hash>-<name>                      the path itself, read-only
    store/.narinfo/<hash>-<name>.narinfo     its record, lasting
    store/.narinfo/<hash>-<name>.<boot>      its record, good until the machine stops
    store/.stage/<hash>-<name>.lock          flock: somebody is at work on this path
    store/.stage/<hash>-<name>.tree          being unpacked
    store/.stage/<hash>-<name>.gone          being deleted

A path is present if it is there and so is its record, lasting or of this boot. Committing, in
this order, under the path's lock:

1. the tree is whole in the stage, its hash checked;
2. the record is renamed into place, under the name that holds in this boot only;
3. the tree is renamed into place: present from here on;
4. later, and nobody waits: syncfs, then the record gets its lasting name.

A crash of the process after any step leaves a record without path or stage entries, which
`recover` drops. A crash of the machine before 4 leaves a record of another boot: the path's bytes
may never have reached the disk, so both are dropped and the path is fetched again.

Several processes may use one store at once: the lock says who fetches a path, and dies with its
holder, so a stage entry whose lock is free is garbage. Which paths are wanted is not decided here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.narinfo import NarInfo

LOCK_POLL_SECONDS: Final = 0.05
_LASTING: Final = "narinfo"
_BOOT: Final = re.compile("[0-9a-f]{8}")
_logger = logging.getLogger(__name__)


class Store:
    """The store in `directory`, which `recover` makes ready; safe for threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records = directory / ".narinfo"
        self._stage = directory / ".stage"
        self._boot = durable.boot_id()[:8]
        self._settler = durable.Settler(self.settle)

    def locate(self, path: StorePath) -> Path:
        """Return where the path is on this node, if it is present."""
        return self.directory / path.basename

    def has(self, path: StorePath) -> bool:
        """Whether the path is present: two or three lstat calls."""
        return os.path.lexists(self.locate(path)) and any(
            os.path.lexists(self._record_at(path.basename, suffix))
            for suffix in (_LASTING, self._boot)
        )

    def record(self, path: StorePath) -> NarInfo | None:
        """Return what was verified of a present path; None for one that is absent.

        Raises ContentDamaged if the record itself is.
        """
        if not os.path.lexists(self.locate(path)):
            return None
        for suffix in (_LASTING, self._boot, _LASTING):  # settling may rename it meanwhile
            with contextlib.suppress(FileNotFoundError):
                return narinfo.parse(self._record_at(path.basename, suffix).read_bytes(), path)
        return None

    @contextlib.contextmanager
    def stage(self, path: StorePath, check: Callable[[], None]) -> Iterator[Stage]:
        """Hold the path's lock, and a stage for it that is empty before and gone after.

        Waits while another thread or process has it, and calls `check` now and then meanwhile.
        Look whether the path is present before filling the stage: the other one may have done it.
        """
        with durable.exhaustion_explained(self.directory, str(path), 4096):
            while (lock := durable.Lock.acquire(self._stage_at(path.basename, "lock"))) is None:
                check()
                time.sleep(LOCK_POLL_SECONDS)
        try:
            stage = Stage(self, path, self._stage_at(path.basename, "tree"))
            try:
                stage.clear()
                yield stage
            finally:
                stage.clear()
        finally:
            lock.release()

    def commit(self, path: StorePath, tree: Path, record: NarInfo) -> None:
        """Put a whole tree in place; the caller holds the path's lock (`Stage.commit`)."""
        staged = self._stage_at(path.basename, _LASTING)
        try:
            staged.write_text(narinfo.text_of(record))
            staged.rename(self._record_at(path.basename, self._boot))
        finally:
            staged.unlink(missing_ok=True)
        self._discard(path.basename)  # what a crash of the machine left, if nobody recovered since
        _move(tree, self.locate(path))
        self._settler.poke()

    def settle(self) -> None:
        """Make lasting what was committed in this boot; waits for the disk.

        The list comes first: whatever has its record by then was whole before, so the syncfs that
        follows covers it.
        """
        fresh = [each for each, suffix in self._listed_records() if suffix == self._boot]
        if not fresh:
            return
        durable.sync_filesystem(self.directory)
        for basename in fresh:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                self._record_at(basename, self._boot).rename(self._record_at(basename, _LASTING))

    def recover(self) -> None:
        """Make the directories, and drop what crashes left; what others are at work on stays."""
        for each in (self.directory, self._records, self._stage):
            each.mkdir(mode=0o755, parents=True, exist_ok=True)
        recorded: set[str] = set()
        for basename, suffix in self._listed_records():
            if suffix in (_LASTING, self._boot):
                recorded.add(basename)
            else:
                self._record_at(basename, suffix).unlink(missing_ok=True)
        staged = {each.name.rpartition(".")[0] for each in self._stage.iterdir()}
        placed = {each.name for each in self.directory.iterdir() if _is_basename(each.name)}
        for basename in sorted(staged | (recorded ^ placed)):
            if _is_basename(basename):
                self._tidy(basename)
        self._settler.poke()

    def remove(self, paths: Iterable[StorePath]) -> tuple[StorePath, ...]:
        """Remove paths, wherever nobody is at work on them; return those that are gone.

        The records go first and for good: half a path never has one.
        """
        locked: dict[StorePath, durable.Lock] = {}
        try:
            for path in paths:
                lock = durable.Lock.acquire(self._stage_at(path.basename, "lock"))
                if lock is not None:
                    locked[path] = lock
                    self._forget(path.basename)
            durable.sync_directory(self._records)
            for path in locked:
                self._discard(path.basename)
        finally:
            for lock in locked.values():
                lock.release()
        return tuple(locked)

    def paths(self) -> tuple[StorePath, ...]:
        """Return all present paths, sorted."""
        names = (each.name for each in self.directory.iterdir() if _is_basename(each.name))
        present = (storepaths.of_basename(name) for name in names)
        return tuple(sorted(path for path in present if self.has(path)))

    def _tidy(self, basename: str) -> None:
        """Drop the stage entries of a path, and path or record where the other is missing."""
        lock = durable.Lock.acquire(self._stage_at(basename, "lock"))
        if lock is None:
            return
        try:
            durable.remove_tree(self._stage_at(basename, "tree"))
            durable.remove_tree(self._stage_at(basename, "gone"))
            self._stage_at(basename, _LASTING).unlink(missing_ok=True)
            if not self.has(storepaths.of_basename(basename)):
                _logger.info("dropping what a crash left of path=%s", basename)
                self._forget(basename)
                self._discard(basename)
        finally:
            lock.release()

    def _forget(self, basename: str) -> None:
        for suffix in (_LASTING, self._boot):
            self._record_at(basename, suffix).unlink(missing_ok=True)

    def _discard(self, basename: str) -> None:
        """Delete a path without record, in the stage, so that never half of it is in place."""
        aside = self._stage_at(basename, "gone")
        with contextlib.suppress(FileNotFoundError):
            _move(self.directory / basename, aside)
        durable.remove_tree(aside)

    def _listed_records(self) -> list[tuple[str, str]]:
        """Return basename and suffix of every record file."""
        split = (each.name.rpartition(".") for each in self._records.iterdir())
        return [
            (basename, suffix)
            for basename, _, suffix in split
            if suffix == _LASTING or _BOOT.fullmatch(suffix)
        ]

    def _record_at(self, basename: str, suffix: str) -> Path:
        return self._records / f"{basename}.{suffix}"

    def _stage_at(self, basename: str, suffix: str) -> Path:
        return self._stage / f"{basename}.{suffix}"


class Stage:
    """Where one path is made; `tree` is what to create, a file, a link or a directory."""

    def __init__(self, store: Store, path: StorePath, tree: Path) -> None:
        self._store = store
        self.path = path
        self.tree = tree

    @contextlib.contextmanager
    def filling(self, needed: int) -> Iterator[Path]:
        """Give the place for the tree; it is cleared again if filling it fails.

        Raises NodeExhausted if `needed` bytes are not free, or run out meanwhile.
        """
        purpose = str(self.path)
        state = os.statvfs(self._store.directory)
        if state.f_bavail * state.f_frsize < needed:
            raise durable.exhaustion_of(self._store.directory, purpose, needed)
        with durable.exhaustion_explained(self._store.directory, purpose, needed):
            try:
                yield self.tree
            except BaseException:
                self.clear()
                raise

    def commit(self, record: NarInfo) -> None:
        """Put the tree in place with its record: from now on the path is present."""
        with durable.exhaustion_explained(self._store.directory, str(self.path), 4096):
            self._store.commit(self.path, self.tree, record)

    def clear(self) -> None:
        """Remove whatever is in the stage."""
        durable.remove_tree(self.tree)


def _is_basename(name: str) -> bool:
    """Whether it is ours to touch: a mount point has lost+found, an operator has notes."""
    try:
        storepaths.of_basename(name)
    except errors.RequestInvalid:
        return False
    return True


def _move(source: Path, target: Path) -> None:
    """Rename, also a read-only directory of ours: only root may move one without touching it."""
    try:
        source.rename(target)
    except PermissionError:
        mode = source.lstat().st_mode & 0o7777
        source.chmod(mode | 0o200)
        source.rename(target)
        target.chmod(mode)
