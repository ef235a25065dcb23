"""The store on this node's disk: verified store paths, each with a record of what was verified.

    store/<hash>-<name>                      the path itself, read-only
    store/.narinfo/<hash>-<name>.narinfo     its record, lasting
    store/.narinfo/<hash>-<name>.<boot>      its record, good until the machine stops
    store/.narinfo/<hash>-<name>.reserved    it is not for everybody: see `fetching`
    store/.narinfo/<hash>-<name>.public      it came without any login: other nodes may have it
    store/.narinfo/<hash>-<name>.damaged     it is not what its record says: see `integrity`
    store/.stage/  store/.garbage/           see `staging`

A path is present if it is there and so is its record, lasting or of this boot. One that was found
damaged counts as absent, so that it is fetched anew, and stays in place until it is. Committing, in
this order, under the path's lock:

1. the tree is whole in the stage, its hash checked;
2. the record is renamed into place, under the name that holds in this boot only, and beside it
   the mark of a reserved or a public path;
3. the tree is renamed into place: present from here on;
4. later, and nobody waits: syncfs, then the record gets its lasting name.

A crash of the process after any step leaves a record without path or stage entries, which
`recover` drops. A crash of the machine before 4 leaves a record of another boot: the path's bytes
may never have reached the disk, so both are dropped and the path is fetched again.

Reading a record is using it, and changes its time: `drop` takes away only what was not used since.
Several processes may use one store at once. Which paths are wanted is not decided here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.disk import staging
from cri_proxy.store.narinfo import NarInfo

_LASTING: Final = "narinfo"
_RESERVED: Final = "reserved"
_PUBLIC: Final = "public"
_DAMAGED: Final = "damaged"
_SUFFIXES: Final = (_LASTING, _RESERVED, _PUBLIC, _DAMAGED)
_BOOT: Final = re.compile("[0-9a-f]{8}")
_SMALL_BYTES: Final = 4096
_READ_BYTES: Final = 16 * 1024
_logger = logging.getLogger(__name__)


class Store:
    """The store in `directory`, which `recover` makes ready; safe for threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._area = staging.Area(directory)
        self._records = directory / ".narinfo"
        self._place = f"{directory}/"  # strings below: paths of pathlib cost more than the calls
        self._record = f"{directory}/.narinfo/"
        self._boot = durable.boot_id()[:8]
        self._settler = durable.Settler(self.settle)

    def locate(self, path: StorePath) -> Path:
        """Return where the path is on this node, if it is present."""
        return self.directory / path.basename

    def has(self, path: StorePath) -> bool:
        """Whether the path is present: two or three lstat calls."""
        return self.is_in_place(path) and any(
            _is_there(self._record_at(path.basename, suffix))
            for suffix in (_LASTING, self._boot, _LASTING)  # settling may rename it meanwhile
        )

    def is_in_place(self, path: StorePath) -> bool:
        """Whether there is anything of that name, recorded or not: one lstat call."""
        return os.path.lexists(self._place + path.basename)

    def is_reserved(self, path: StorePath) -> bool:
        """Whether a present path is only for realizations whose own caches have it."""
        return _is_there(self._record_at(path.basename, _RESERVED))

    def is_public(self, path: StorePath) -> bool:
        """Whether a present path may be given to other nodes: nobody had to log in to get it."""
        is_marked = _is_there(self._record_at(path.basename, _PUBLIC))
        return is_marked and not self.is_reserved(path) and not self.is_damaged(path)

    def public_paths(self) -> tuple[StorePath, ...]:
        """Return all present paths that are public, sorted."""
        marked = (name for name, suffix in self._listed_records() if suffix == _PUBLIC)
        paths = (storepaths.of_basename(name) for name in sorted(marked))
        return tuple(path for path in paths if self.has(path) and self.is_public(path))

    def is_damaged(self, path: StorePath) -> bool:
        """Whether a path was found to be damaged and not been fetched since."""
        return _is_there(self._record_at(path.basename, _DAMAGED))

    def condemn(self, path: StorePath) -> None:
        """Note that a path is damaged: it counts as absent from now on, and stays in place."""
        _touch(self._record_at(path.basename, _DAMAGED))
        durable.sync_directory(self._records)

    def record(self, path: StorePath) -> NarInfo | None:
        """Return what was verified of a present path, which is used; None for one that is absent.

        A path that is damaged, or whose record is, counts as absent, so that it is fetched anew.
        """
        return self._record_of(path, is_use=True)

    def look(self, path: StorePath) -> NarInfo | None:
        """Return what was verified of a path that is in place, damaged or not, without using it."""
        return self._record_of(path, is_use=False)

    def _record_of(self, path: StorePath, *, is_use: bool) -> NarInfo | None:
        if not self.is_in_place(path):
            return None
        if is_use and self.is_damaged(path):
            return None
        for suffix in (_LASTING, self._boot, _LASTING):  # as in `has`
            place = self._record_at(path.basename, suffix)
            if not _is_there(place):  # as half of them: quicker than an error
                continue
            try:
                if is_use:
                    os.utime(place)  # before it is read: see `drop`
                return narinfo.parse(_read(place), path)
            except FileNotFoundError:
                continue
            except (errors.ContentDamaged, OSError) as error:
                _logger.warning("record on this node cannot be read: path=%s: %s", path, error)
                break
        return None

    def shared_record(self, path: StorePath) -> NarInfo | None:
        """Return what was verified of a present path that is for everybody, else None.

        The mark is looked for on both sides: a reserved path may come or go meanwhile.
        """
        if not self.is_in_place(path):
            return None  # as of most paths that are asked for: one call instead of three
        record = None if self.is_reserved(path) else self.record(path)
        return None if record is None or self.is_reserved(path) else record

    def paths(self) -> tuple[StorePath, ...]:
        """Return all present paths, sorted."""
        present = (storepaths.of_basename(name) for name in self._placed())
        return tuple(sorted(path for path in present if self.has(path)))

    @contextlib.contextmanager
    def stage(self, path: StorePath, check: Callable[[], None]) -> Iterator[PathStage]:
        """Hold the path, with a stage for it that is empty before and after.

        Waits while another thread or process holds it, and calls `check` now and then meanwhile.
        Look whether the path is present before filling the stage: the other one may have done it.
        """
        with (
            durable.exhaustion_explained(self.directory, str(path), _SMALL_BYTES),
            self._area.hold(path.basename, check) as tree,
        ):
            yield PathStage(self, path, tree)

    @contextlib.contextmanager
    def try_stage(self, path: StorePath) -> Iterator[PathStage | None]:
        """Hold the path as `stage` does, if nobody else does now; else give None."""
        with (
            durable.exhaustion_explained(self.directory, str(path), _SMALL_BYTES),
            self._area.try_stage(path.basename) as tree,
        ):
            yield None if tree is None else PathStage(self, path, tree)

    def commit(
        self, path: StorePath, record: NarInfo, *, is_reserved: bool, is_public: bool = False
    ) -> None:
        """Put the staged tree of a path that is held in place (`Stage.commit`)."""
        basename = path.basename
        is_damaged = self.is_damaged(path)
        mark = _RESERVED if is_reserved else _PUBLIC if is_public else None
        is_there = self.is_in_place(path)
        # Of one that is there the record goes first, or a mark without it would be believed.
        self._forget(basename, but=(_DAMAGED,) if is_there else (_DAMAGED, self._boot, mark))
        if is_there and not is_damaged:
            self._area.discard(basename)  # another reserved one, or what a disk left of one
        if mark is not None:
            _touch(self._record_at(basename, mark))
        beside = f"{self._record}.{basename}"
        _write(beside, narinfo.text_of(record).encode())
        os.rename(beside, self._record_at(basename, self._boot))  # noqa: PTH104
        if is_damaged and is_there:
            self._area.exchange(basename)
        else:
            self._area.place(basename)
        _unlink(self._record_at(basename, _DAMAGED))  # last: until now it counted
        self._settler.poke()

    def share(self, path: StorePath) -> None:
        """Make a path that is held present for everybody (`Stage.share`)."""
        _unlink(self._record_at(path.basename, _RESERVED))

    def settle(self) -> None:
        """Make lasting what was committed in this boot; waits for the disk.

        The list comes first: whatever has its record by then was whole before, so the syncfs that
        follows covers it.
        """
        fresh = [name for name, suffix in self._listed_records() if suffix == self._boot]
        if not fresh:
            return
        durable.sync_filesystem(self.directory)
        for name in fresh:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                os.rename(  # noqa: PTH104
                    self._record_at(name, self._boot), self._record_at(name, _LASTING)
                )

    def recover(self) -> None:
        """Make the directories, and drop what crashes left; what others are at work on stays."""
        self._area.make()
        self._records.mkdir(mode=0o755, exist_ok=True)
        recorded: set[str] = set()
        marked: set[str] = set()
        for name, suffix in self._listed_records():
            if suffix in (_LASTING, self._boot):
                recorded.add(name)
            elif suffix in {_RESERVED, _PUBLIC, _DAMAGED}:
                marked.add(name)
            else:
                _unlink(self._record_at(name, suffix))
        broken = (recorded ^ self._placed()) | (marked - recorded)
        for name in sorted(self._area.names() | broken):
            with self._area.try_hold(name) as is_held:
                if is_held:
                    self._tidy(name)
        self._settler.poke()

    def remove(self, paths: Iterable[StorePath]) -> tuple[StorePath, ...]:
        """Remove paths, save those that somebody is at work on; return those that are gone.

        The records go first and for good: half a path never has one.
        """
        with contextlib.ExitStack() as held:
            free = [
                path for path in paths if held.enter_context(self._area.try_hold(path.basename))
            ]
            for path in free:
                self._forget(path.basename)
            durable.sync_directory(self._records)
            for path in free:
                self._area.discard(path.basename)
        return tuple(free)

    def drop(self, path: StorePath, *, unused_since: float) -> bool:
        """Take a path away, unless it was used since or somebody is at work on it.

        In this order, under the path's lock:

        1. the record is renamed, so that from here on the path is absent for whoever looks;
        2. if the record's time is newer, somebody looked before that: it gets its name back;
        3. the tree is set aside, to be deleted by `garbage`.

        Whoever looked before 1 is seen in 2, and whoever looks later asks for the path anew, which
        waits for the lock. A crash leaves a path without a record, which `recover` drops.
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
            self._area.set_aside(name)
            self._forget(name)
            beside.unlink()
            return True

    def _tidy(self, name: str) -> None:
        """Drop the stage entries of a name that is held, and path or record without the other."""
        self._area.clear(name)
        (self._records / f".{name}").unlink(missing_ok=True)
        if _is_basename(name) and not self.has(storepaths.of_basename(name)):
            _logger.info("dropping what a crash left: path=%s", name)
            self._forget(name)
            self._area.discard(name)

    def _forget(self, name: str, *, but: Collection[str | None] = ()) -> None:
        for suffix in (_LASTING, self._boot, _RESERVED, _PUBLIC, _DAMAGED):
            if suffix not in but:
                _unlink(self._record_at(name, suffix))

    def _placed(self) -> set[str]:
        """Return the basenames that something is in place for, recorded or not."""
        return {each.name for each in self.directory.iterdir() if _is_basename(each.name)}

    def _listed_records(self) -> list[tuple[str, str]]:
        """Return basename and suffix of every record."""
        split = (each.name.rpartition(".") for each in self._records.iterdir())
        return [
            (name, suffix)
            for name, _, suffix in split
            if _is_basename(name) and (suffix in _SUFFIXES or _BOOT.fullmatch(suffix))
        ]

    def _record_at(self, name: str, suffix: str) -> str:
        return f"{self._record}{name}.{suffix}"


class PathStage:
    """Where one path is made, while it is held."""

    def __init__(self, store: Store, path: StorePath, tree: Path) -> None:
        self._store = store
        self._path = path
        self._tree = tree

    @contextlib.contextmanager
    def filling(self, needed: int) -> Iterator[Path]:
        """Give the place for the tree, a file, link or directory; clear it if filling it fails.

        Raises NodeExhausted if `needed` bytes are not free, or run out meanwhile.
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
        """Put the tree in place with its record: from now on the path is present."""
        self._store.commit(self._path, record, is_reserved=is_reserved, is_public=is_public)

    def share(self) -> None:
        """Make the path, which is in place and reserved, present for everybody."""
        self._store.share(self._path)


# Plain calls of the kernel: objects of files and paths cost more than the calls.


def _is_there(file: str) -> bool:
    """Whether there is a file of that name: quicker than lstat, which makes an error of a no."""
    return os.access(file, os.F_OK)


def _touch(file: str) -> None:
    """Make an empty file, if there is none."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _write(file: str, data: bytes) -> None:
    """Make a file of `data`, in place of another."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _read(file: str) -> bytes:
    """Return the contents of a small file."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _READ_BYTES)
        while len(data) % _READ_BYTES == 0 and (more := os.read(fd, _READ_BYTES)):
            data += more
        return data
    finally:
        os.close(fd)


def _unlink(file: str) -> None:
    """Remove a file if it is there."""
    if not _is_there(file):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)  # noqa: PTH108


def _is_basename(name: str) -> bool:
    """Whether it is ours to touch: a mount point has lost+found, an operator has notes."""
    try:
        storepaths.of_basename(name)
    except errors.RequestInvalid:
        return False
    return True
