"""The store on this node's disk: verified store paths, each with its narinfo as a record.

    store/<hash>-<name>                      the path itself, read-only
    store/.narinfo/<hash>-<name>.narinfo     its record, lasting
    store/.narinfo/<hash>-<name>.<boot>      its record, valid in this boot only
    store/.narinfo/<hash>-<name>.reserved    only for realizations whose own caches have it
    store/.narinfo/<hash>-<name>.public      fetched without a login: other nodes may get it
    store/.narinfo/<hash>-<name>.damaged     in quarantine, does not match its record: `integrity`
    store/.stage/  store/.garbage/           see `staging`

A path is present if both the path and its record, lasting or of this boot, exist. A path in
quarantine counts as absent, so that it is fetched again, and stays in place until then. A commit,
under the path's lock:

1. the tree is complete in the stage, its hash verified;
2. the record is renamed into place under its boot-only name, and the mark of a reserved or public
   path is created beside it;
3. the tree is renamed into place: from here on the path is present;
4. later, in the background: syncfs, then the record is renamed to its lasting name.

A crash of the process leaves a record without its path, or stage entries; `recover` drops both. A
crash of the machine before 4 leaves a record of another boot: the path's bytes may never have
reached the disk, so path and record are dropped and the path is fetched again.

Reading a record is a use of the path and changes the record's time: `evict` removes only what has
not been used since. Several processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.disk import checkpoints, staging
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.telemetry import logs

_LASTING: Final = "narinfo"
_RESERVED: Final = "reserved"
_PUBLIC: Final = "public"
_DAMAGED: Final = "damaged"
_SUFFIXES: Final = (_LASTING, _RESERVED, _PUBLIC, _DAMAGED)
_BOOT: Final = re.compile("[0-9a-f]{8}")
_SMALL_BYTES: Final = 4096
_READ_BYTES: Final = 16 * 1024
_log = logs.of(__name__)


class Store:
    """The store in `directory`, safe for threads and processes; `recover` before first use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._area = staging.Area(directory)
        self._records = directory / ".narinfo"
        self._place = f"{directory}/"  # strings: pathlib would cost more than the system calls
        self._record = f"{directory}/.narinfo/"
        self._boot = durable.boot_id()[:8]
        self._checkpointer = checkpoints.Checkpointer(self.checkpoint)

    def locate(self, path: StorePath) -> Path:
        """Return where the path is on this node, if it is present."""
        return self.directory / path.basename

    def has(self, path: StorePath) -> bool:
        """Return whether the path is present: two or three lstat calls."""
        return self.is_in_place(path) and any(
            _is_there(self._record_at(path.basename, suffix))
            for suffix in (_LASTING, self._boot, _LASTING)  # a checkpoint may rename it meanwhile
        )

    def is_in_place(self, path: StorePath) -> bool:
        """Return whether anything has that name, recorded or not: one lstat call."""
        return os.path.lexists(self._place + path.basename)

    def is_reserved(self, path: StorePath) -> bool:
        """Return whether a present path is only for realizations whose own caches have it."""
        return _is_there(self._record_at(path.basename, _RESERVED))

    def is_public(self, path: StorePath) -> bool:
        """Return whether a present path may be given to other nodes: it took no login to fetch."""
        is_marked = _is_there(self._record_at(path.basename, _PUBLIC))
        return is_marked and not self.is_reserved(path) and not self.is_damaged(path)

    def public_paths(self) -> tuple[StorePath, ...]:
        """Return all present paths that are public, sorted."""
        marked = (name for name, suffix in self._listed_records() if suffix == _PUBLIC)
        paths = (storepaths.of_basename(name) for name in sorted(marked))
        return tuple(path for path in paths if self.has(path) and self.is_public(path))

    def is_damaged(self, path: StorePath) -> bool:
        """Return whether a path is in quarantine: found damaged, and not fetched since."""
        return _is_there(self._record_at(path.basename, _DAMAGED))

    def quarantine(self, path: StorePath) -> None:
        """Mark a path as damaged: from now on it counts as absent, and stays in place."""
        _touch(self._record_at(path.basename, _DAMAGED))
        durable.sync_directory(self._records)

    def record(self, path: StorePath) -> NarInfo | None:
        """Return the record of a present path, which counts as a use; None if it is absent.

        A damaged path, or one with a damaged record, counts as absent, so that it is fetched again.
        """
        return self._record_of(path, is_use=True)

    def peek(self, path: StorePath) -> NarInfo | None:
        """Return the record of a path in place, damaged or not, without counting as a use."""
        return self._record_of(path, is_use=False)

    def _record_of(self, path: StorePath, *, is_use: bool) -> NarInfo | None:
        if not self.is_in_place(path) or (is_use and self.is_damaged(path)):
            return None
        for suffix in (_LASTING, self._boot, _LASTING):  # as in `has`
            place = self._record_at(path.basename, suffix)
            if not _is_there(place):  # half of them are not: faster than an exception
                continue
            try:
                if is_use:
                    os.utime(place)  # before it is read: see `evict`
                return narinfo.parse(_read(place), path)
            except FileNotFoundError:
                continue
            except (errors.ContentDamaged, OSError) as error:
                _log.warning("store path record unreadable", path=path, why=error)
                break
        return None

    def shared_record(self, path: StorePath) -> NarInfo | None:
        """Return the record of a present path that is not reserved, else None.

        The mark is checked before and after: a reserved path may come or go meanwhile.
        """
        if not self.is_in_place(path):
            return None  # the usual answer: one call instead of three
        record = None if self.is_reserved(path) else self.record(path)
        return None if record is None or self.is_reserved(path) else record

    def paths(self) -> tuple[StorePath, ...]:
        """Return all present paths, sorted."""
        placed = (storepaths.of_basename(name) for name in self._placed())
        return tuple(sorted(path for path in placed if self.has(path)))

    @contextlib.contextmanager
    def stage(self, path: StorePath, check: Callable[[], None]) -> Iterator[PathStage]:
        """Lock the path and yield a stage for it, which is empty before and after.

        While another thread or process holds the path, waits and calls `check` regularly. Check
        whether the path is present before filling the stage: the other holder may have made it.
        """
        with (
            durable.exhaustion_explained(self.directory, str(path), _SMALL_BYTES),
            self._area.hold(path.basename, check) as tree,
        ):
            yield PathStage(self, path, tree)

    @contextlib.contextmanager
    def try_stage(self, path: StorePath) -> Iterator[PathStage | None]:
        """Lock the path as `stage` does, or yield None if it is locked already."""
        with (
            durable.exhaustion_explained(self.directory, str(path), _SMALL_BYTES),
            self._area.try_stage(path.basename) as tree,
        ):
            yield None if tree is None else PathStage(self, path, tree)

    def checkpoint(self) -> None:
        """Sync what was committed in this boot, then give its records their lasting names.

        The list comes first: a path that has its record by then was complete before, so the syncfs
        that follows covers it.
        """
        fresh = [name for name, suffix in self._listed_records() if suffix == self._boot]
        if fresh:
            durable.sync_filesystem(self.directory)
        for name in fresh:
            boot, lasting = self._record_at(name, self._boot), self._record_at(name, _LASTING)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.rename(boot, lasting)  # noqa: PTH104

    def recover(self) -> None:
        """Create the directories and drop what crashes left; locked names are left alone."""
        self._area.make()
        self._records.mkdir(mode=0o755, exist_ok=True)
        recorded: set[str] = set()
        marked: set[str] = set()
        for name, suffix in self._listed_records():
            if suffix in (_LASTING, self._boot):
                recorded.add(name)
            elif suffix in _SUFFIXES:
                marked.add(name)
            else:
                _unlink(self._record_at(name, suffix))
        broken = (recorded ^ self._placed()) | (marked - recorded)
        for name in sorted(self._area.names() | broken):
            with self._area.try_hold(name) as is_held:
                if not is_held:
                    continue
                self._area.clear(name)
                _unlink(f"{self._record}.{name}")
                if is_basename(name) and not self.has(storepaths.of_basename(name)):
                    _log.info("dropping what a crash left", path=name)
                    self._forget(name)
                    self._area.remove(name)
        self._checkpointer.request()

    def evict(self, path: StorePath, *, unused_since: float) -> bool:
        """Move a path to the garbage, unless it was used since or is locked.

        In this order, under the path's lock:

        1. the record is renamed: from here on the path is absent to readers;
        2. if the record's time is newer, it was read before 1: it gets its name back;
        3. the tree is moved to the garbage, which `garbage` deletes.

        A read before 1 is noticed in 2. A reader after 1 stages the path, which waits for the
        lock. A crash leaves a path without a record, which `recover` drops.
        """
        name = path.basename
        beside = self._records / f".{name}"
        with self._area.try_hold(name) as is_held:
            if not is_held:
                return False
            for suffix in (_LASTING, self._boot, _LASTING):  # as in `has`
                record = self._record_at(name, suffix)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(record, beside)  # noqa: PTH104
                    break
            else:
                return False
            if beside.stat().st_mtime >= unused_since:
                beside.rename(record)
                return False
            self._area.move_to_garbage(name)
            self._forget(name)
            beside.unlink()
            return True

    def _forget(self, name: str, *, but: Collection[str | None] = ()) -> None:
        for suffix in (self._boot, *_SUFFIXES):  # a checkpoint may rename the first to the second
            if suffix not in but:
                _unlink(self._record_at(name, suffix))

    def _placed(self) -> set[str]:
        """Return the basenames of all paths in place, recorded or not."""
        return {each.name for each in self.directory.iterdir() if is_basename(each.name)}

    def _listed_records(self) -> list[tuple[str, str]]:
        split = (each.name.rpartition(".") for each in self._records.iterdir())
        return [
            (name, suffix)
            for name, _, suffix in split
            if is_basename(name) and (suffix in _SUFFIXES or _BOOT.fullmatch(suffix))
        ]

    def _record_at(self, name: str, suffix: str) -> str:
        return f"{self._record}{name}.{suffix}"


class PathStage:
    """The stage of one held path."""

    def __init__(self, store: Store, path: StorePath, tree: Path) -> None:
        self._store = store
        self._path = path
        self._tree = tree

    @contextlib.contextmanager
    def tree(self, needed: int) -> Iterator[Path]:
        """Yield the path to create the file, symlink or directory at; remove it if that fails.

        Raises NodeExhausted if `needed` bytes are not free, or space runs out meanwhile.
        """
        directory, purpose = self._store.directory, str(self._path)
        state = os.statvfs(directory)
        if state.f_bavail * state.f_frsize < needed:
            raise durable.exhaustion_of(directory, purpose, needed)
        try:
            with durable.exhaustion_explained(directory, purpose, needed):
                yield self._tree
        except BaseException:
            durable.remove_tree(self._tree)
            raise

    def commit(
        self, record: NarInfo, *, is_reserved: bool = False, is_public: bool = False
    ) -> None:
        """Move the tree into place with its record: from now on the path is present."""
        store, basename = self._store, self._path.basename
        is_damaged = store.is_damaged(self._path)
        mark = _RESERVED if is_reserved else _PUBLIC if is_public else None
        is_there = store.is_in_place(self._path)
        # Of a path in place the record goes first: a reserved one without its mark would be shared.
        store._forget(basename, but=(_DAMAGED,) if is_there else (_DAMAGED, store._boot, mark))
        if is_there and not is_damaged:
            store._area.remove(basename)  # a reserved one, or remains after a power failure
        if mark is not None:
            _touch(store._record_at(basename, mark))
        beside = f"{store._record}.{basename}"
        _write(beside, narinfo.text_of(record).encode())
        os.rename(beside, store._record_at(basename, store._boot))  # noqa: PTH104
        if is_damaged and is_there:
            store._area.exchange(basename)
        else:
            store._area.place(basename)
        _unlink(store._record_at(basename, _DAMAGED))  # last: the old tree was damaged until now
        store._checkpointer.request()

    def share(self) -> None:
        """Make the path, which is in place and reserved, present for every realization."""
        _unlink(self._store._record_at(self._path.basename, _RESERVED))


def is_basename(name: str) -> bool:
    """Return whether it names a store path, unlike lost+found or an operator's notes."""
    try:
        storepaths.of_basename(name)
    except errors.RequestInvalid:
        return False
    return True


# Plain system calls: file and path objects would cost more than the calls themselves.


def _is_there(file: str) -> bool:
    return os.access(file, os.F_OK)  # lstat is slower: it raises if the file does not exist


def _touch(file: str) -> None:
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _write(file: str, data: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _read(file: str) -> bytes:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _READ_BYTES)
        while len(data) % _READ_BYTES == 0 and (more := os.read(fd, _READ_BYTES)):
            data += more
        return data
    finally:
        os.close(fd)


def _unlink(file: str) -> None:
    if _is_there(file):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)  # noqa: PTH108
