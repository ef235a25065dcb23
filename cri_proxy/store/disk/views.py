"""Views: an environment's own tree of hard links, which its containers see as /nix/store.

    environments/<id>/store/<hash>-<name>    the closure, hard links into the store, and what the
                                             caller renders
    environments/<id>/…                      what else the caller keeps of the environment
    environments/<id>/.lasting               the view is whole, whatever happens to the machine
    environments/<id>/.<boot>                the view is whole until the machine stops
    environments/<id>/.damaged               store paths of which it has damaged copies
    environments/.stage/  .garbage/          see `staging`

The caller stages an identity, links the paths of the closure, adds its own files and commits. As
with store paths nobody waits for the disk: the mark of this boot is renamed to the lasting one
after a syncfs in the background, and a view with neither is dropped by `recover`.

Why hard links: one mount per container whatever the size of the closure, nothing of another
environment is visible, and all share the page cache. Directories cannot be linked, so they are
made; a file that has as many links as the file system allows is copied.

A view that was found damaged is mended where it is, for containers may run in it: a copy of each
damaged path is linked anew and takes the other's place at once.

Which views are in use is not known here: whoever removes one must know, and hold its lease.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable, exchange, scheduling
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store.disk import staging
from cri_proxy.store.disk.local import Store

_LASTING: Final = ".lasting"
_DAMAGED: Final = ".damaged"
_IDENTITY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_UNLINKABLE: Final = (errno.EXDEV, errno.EPERM, errno.EROFS, errno.EMLINK)
_THREADS: Final = 2
_TIMES: Final = (1_000_000_000, 1_000_000_000)


class Views:
    """The views in `directory` of paths in `store`; `recover` makes it ready. Safe for threads."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.directory = directory
        self._store = store
        self._area = staging.Area(directory)
        self._boot = f".{durable.boot_id()[:8]}"
        self._settler = durable.Settler(self.settle)

    def locate(self, identity: str) -> Path:
        """Return the directory of a view, if there is one."""
        if not _IDENTITY.fullmatch(identity):
            raise errors.RequestInvalid(f"{identity[:200]!a} is not the identity of an environment")
        return self.directory / identity

    def has(self, identity: str) -> bool:
        """Whether the view is there and whole."""
        place = self.locate(identity)
        return any(
            os.path.lexists(place / mark) for mark in (_LASTING, self._boot, _LASTING)
        )  # twice, for settling may rename it meanwhile

    def identities(self) -> tuple[str, ...]:
        """Return the identities of all views, sorted."""
        return tuple(sorted(name for name in self._placed() if self.has(name)))

    @contextlib.contextmanager
    def stage(self, identity: str, check: Callable[[], None]) -> Iterator[ViewStage]:
        """Hold the identity, with a stage that is gone afterwards if it was not committed.

        Waits while another thread or process holds it, and calls `check` now and then meanwhile.
        Look whether the view is there before filling the stage: the other one may have done it.
        Raises NodeExhausted when the disk becomes full meanwhile.
        """
        self.locate(identity)
        with (
            durable.exhaustion_explained(self.directory, f"environment {identity}", 4096),
            self._area.hold(identity, check) as tree,
        ):
            stage = ViewStage(tree, self._store, lambda: self._commit(identity))
            stage.store.mkdir(parents=True)
            yield stage

    def remove(self, identity: str) -> bool:
        """Delete a view: rename it aside, then empty it. False if somebody is at work on it."""
        self.locate(identity)
        with self._area.try_hold(identity) as is_held:
            if is_held:
                self._area.discard(identity)
            return is_held

    def set_aside(self, identity: str) -> bool:
        """Take a view away, to be deleted later; False if it is gone or somebody works on it."""
        place = self.locate(identity)
        with self._area.try_hold(identity) as is_held:
            if not is_held or not place.exists():
                return False
            self._area.set_aside(identity)
            return True

    def condemn(self, identity: str, paths: Iterable[StorePath]) -> None:
        """Note that a view has damaged copies of some paths: nothing starts in it until `mend`."""
        mark = self.locate(identity) / _DAMAGED
        names = {each.basename for each in (*paths, *self.damaged(identity))}
        durable.write(mark, "".join(f"{name}\n" for name in sorted(names)).encode())

    def damaged(self, identity: str) -> tuple[StorePath, ...]:
        """Return the paths that a view was found to have damaged copies of."""
        try:
            names = (self.locate(identity) / _DAMAGED).read_text().split()
        except FileNotFoundError:
            return ()
        return tuple(storepaths.of_basename(name) for name in names)

    def mend(self, identity: str, check: Callable[[], None]) -> None:
        """Link the damaged paths of a view anew from the store, where they must be present.

        Containers that run in it see the new files under their names from then on; what they have
        open or mapped stays the old one. Raises ContentDamaged for a path that is not present.
        """
        with self._area.hold(identity, check) as stage:
            damaged = self.damaged(identity)
            if not damaged:
                return
            for path in damaged:
                if self._store.record(path) is None:
                    raise errors.ContentDamaged(
                        f"{path} in environment {identity} is damaged and has not been fetched "
                        "again: run `cri-proxy store verify --repair`, or see why it cannot be had"
                    )
            place = self.locate(identity)
            (stage / "store").mkdir(parents=True)
            ViewStage(stage, self._store, lambda: None).link(damaged)
            with contextlib.suppress(FileNotFoundError):  # what is linked now may be of this boot
                (place / _LASTING).rename(place / self._boot)
            for path in damaged:
                new, old = (each / "store" / path.basename for each in (stage, place))
                if os.path.lexists(old):
                    exchange.swap(new, old)
                else:
                    new.rename(old)
            (place / _DAMAGED).unlink()
        self._settler.poke()

    def settle(self) -> None:
        """Make lasting what was committed in this boot; waits for the disk."""
        fresh = [name for name in self._placed() if (self.directory / name / self._boot).exists()]
        if not fresh:
            return
        durable.sync_filesystem(self.directory)
        for name in fresh:
            place = self.directory / name
            with contextlib.suppress(FileNotFoundError):  # removed, or another process was quicker
                (place / self._boot).rename(place / _LASTING)

    def recover(self) -> None:
        """Make the directories, and drop what crashes left; what others are at work on stays."""
        self._area.make()
        doubtful = {name for name in self._placed() if not self.has(name)}
        for name in sorted(self._area.names() | doubtful):
            with self._area.try_hold(name) as is_held:
                if is_held:
                    self._area.clear(name)
                    if not self.has(name):
                        self._area.discard(name)
        self._settler.poke()

    def _commit(self, identity: str) -> None:
        """Put the staged view of an identity that is held in place."""
        (self._area.tree_of(identity) / self._boot).touch()
        self._area.discard(identity)  # there is none, unless the machine failed
        self._area.place(identity)
        self._settler.poke()

    def _placed(self) -> set[str]:
        """Return the names of all views, whole or not."""
        return {each.name for each in self.directory.iterdir() if _IDENTITY.fullmatch(each.name)}


class ViewStage:
    """A view that is being made; write into `directory` and `store` what else belongs there."""

    def __init__(self, directory: Path, store: Store, commit: Callable[[], None]) -> None:
        self.directory = directory
        self.store = directory / "store"
        self._store = store
        self._commit = commit
        self._linked: set[str] = set()

    def link(self, paths: Iterable[StorePath]) -> None:
        """Link store paths into the view.

        Raises ContentDamaged for one that is not present any more, or was found damaged since,
        RequestInvalid if store and views are not on one file system.
        """
        paths = list(paths)
        names = [each.basename for each in paths]
        source = os.open(self._store.directory, _DIRECTORY)
        target = os.open(self.store, _DIRECTORY)
        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="link") as executor:
                for _ in executor.map(lambda name: self._link_path(name, source, target), names):
                    pass
        finally:
            os.close(source)
            os.close(target)
        self._linked.update(names)
        for each in paths:
            if self._store.is_damaged(each):
                raise errors.ContentDamaged(
                    f"{each} was found damaged on this node: ask again, it is fetched anew"
                )

    def can_link(self, paths: Iterable[StorePath]) -> bool:
        """Whether the paths' files may be linked here: one file system, and one mount of it."""
        probe = self.directory / ".probe"
        for path in paths:
            file = _first_file(self._store.locate(path))
            if file is not None:
                try:
                    os.link(file, probe, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _UNLINKABLE:
                        raise
                    return False
                probe.unlink()
                return True
        return True

    def leave_room(self, paths: Iterable[StorePath]) -> tuple[Path, ...]:
        """Make an empty directory or file where each path is to be mounted; return what there is.

        A path that is a symlink needs no mount. Raises ContentDamaged for one that has vanished.
        """
        mounted = []
        for path in paths:
            source, target = self._store.locate(path), self.store / path.basename
            try:
                mode = source.lstat().st_mode
            except FileNotFoundError:
                raise _vanished(path.basename, self._store.directory) from None
            if stat.S_ISLNK(mode):
                target.symlink_to(source.readlink())
                continue
            if stat.S_ISDIR(mode):
                target.mkdir()
            else:
                target.touch()
            mounted.append(source)
        return tuple(mounted)

    def commit(self) -> None:
        """Give what the caller wrote into `store` canonical modes and times; put it in place."""
        with os.scandir(self.store) as entries:
            own = [Path(each.path) for each in entries if each.name not in self._linked]
        for each in own:
            _canonicalize(each)
        descriptor = os.open(self.store, _DIRECTORY)
        try:
            _seal(descriptor)
        finally:
            os.close(descriptor)
        self._commit()

    def _link_path(self, name: str, source: int, target: int) -> None:
        try:
            if stat.S_ISDIR(os.lstat(name, dir_fd=source).st_mode):
                _link_directory(name, source, target)
            else:
                _link_file(name, source, target)
        except FileNotFoundError:
            raise _vanished(name, self._store.directory) from None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise errors.RequestInvalid(
                f"{self._store.directory} and {self.directory.parent.parent} must be on one file "
                f"system, for environments are hard links into the store: move one of them"
            ) from error


def _vanished(name: str, directory: Path) -> errors.ContentDamaged:
    return errors.ContentDamaged(
        f"{name} has vanished from {directory} on this node: ask again, it is fetched anew, and "
        f"find out who deletes there"
    )


def _first_file(path: Path) -> Path | None:
    """Return a regular file of a tree, or None if there is none."""
    if path.is_symlink():
        return None
    if path.is_file():
        return path
    for directory, _, names in os.walk(path):
        for name in names:
            if not (found := Path(directory, name)).is_symlink():
                return found
    return None


def _link_directory(name: str, source: int, target: int) -> None:
    """Make a directory with the same entries as that in `source`."""
    os.mkdir(name, 0o700, dir_fd=target)
    inner_source = os.open(name, _DIRECTORY, dir_fd=source)
    try:
        inner_target = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            with os.scandir(inner_source) as entries:
                for each in entries:
                    scheduling.give_way()
                    if each.is_dir(follow_symlinks=False):
                        _link_directory(each.name, inner_source, inner_target)
                    else:
                        _link_file(each.name, inner_source, inner_target)
            _seal(inner_target)
        finally:
            os.close(inner_target)
    finally:
        os.close(inner_source)


def _link_file(name: str, source: int, target: int) -> None:
    """Link a file or symlink."""
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        _copy_file(name, source, target)


def _copy_file(name: str, source: int, target: int) -> None:
    """Copy a file or symlink, with canonical mode and times."""
    mode = os.lstat(name, dir_fd=source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
        with os.fdopen(reading, "rb") as old:
            writing = os.open(name, create, 0o600, dir_fd=target)
            with os.fdopen(writing, "wb") as new:
                shutil.copyfileobj(old, new, 1024 * 1024)
                os.fchmod(writing, stat.S_IMODE(mode))
    os.utime(name, ns=_TIMES, dir_fd=target, follow_symlinks=False)


def _seal(directory: int) -> None:
    """Give an open directory its final mode and times."""
    os.fchmod(directory, 0o555)
    os.utime(directory, ns=_TIMES)


def _canonicalize(path: Path) -> None:
    """Give a tree the modes and times of a store path."""
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        with os.scandir(path) as entries:
            children = [Path(each.path) for each in entries]
        for each in children:
            _canonicalize(each)
    if not stat.S_ISLNK(mode):
        is_executable = stat.S_ISDIR(mode) or mode & 0o111
        path.chmod(0o555 if is_executable else 0o444)
    os.utime(path, ns=_TIMES, follow_symlinks=False)
