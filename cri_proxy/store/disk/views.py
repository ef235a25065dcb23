"""Views: each environment's own tree of hard links, mounted in its containers as /nix/store.

    environments/<id>/store/<hash>-<name>    the closure, hard links into the store, and what the
                                             caller renders
    environments/<id>/…                      other files that the caller keeps per environment
    environments/<id>/.lasting               the view is complete, even after a power failure
    environments/<id>/.<boot>                the view is complete in this boot
    environments/<id>/.damaged               the store paths of which it has damaged copies
    environments/.stage/  .garbage/          see `staging`

The caller stages an identity, links the paths of the closure, adds its own files and commits. As
for store paths (`checkpoints`), the mark of this boot is renamed to the lasting one after a syncfs
in the background; `recover` drops a view with neither.

Why hard links: one mount per container whatever the size of the closure, nothing of another
environment is visible, and all share the page cache. Directories cannot be linked, so they are
created; a file that has reached the file system's link limit is copied.

A damaged view is repaired in place, because containers may run in it: each damaged path is linked
again from the store and exchanged atomically with the old copy.

Callers that remove a view must know that it is not in use, and hold its lease.
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
from cri_proxy.lib import durable, scheduling
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store.disk import checkpoints, staging
from cri_proxy.store.disk.local import Store

_LASTING: Final = ".lasting"
_DAMAGED: Final = ".damaged"
_IDENTITY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_UNLINKABLE: Final = (errno.EXDEV, errno.EPERM, errno.EROFS, errno.EMLINK)
_THREADS: Final = 2
_TIMES: Final = (1_000_000_000, 1_000_000_000)


class Views:
    """The views in `directory` of paths in `store`; `recover` before first use. Thread-safe."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.directory = directory
        self._store = store
        self._area = staging.Area(directory)
        self._boot = f".{durable.boot_id()[:8]}"
        self._checkpointer = checkpoints.Checkpointer(self.checkpoint)

    def locate(self, identity: str) -> Path:
        """Return the directory of a view, which need not exist."""
        if not _IDENTITY.fullmatch(identity):
            raise errors.RequestInvalid(f"{identity[:200]!a} is not the identity of an environment")
        return self.directory / identity

    def has(self, identity: str) -> bool:
        """Return whether the view exists and is complete."""
        place = self.locate(identity)
        return any(
            os.path.lexists(place / mark) for mark in (_LASTING, self._boot, _LASTING)
        )  # twice: a checkpoint may rename it meanwhile

    def identities(self) -> tuple[str, ...]:
        """Return the identities of all complete views, sorted."""
        return tuple(sorted(name for name in self._placed() if self.has(name)))

    @contextlib.contextmanager
    def stage(self, identity: str, check: Callable[[], None]) -> Iterator[ViewStage]:
        """Lock the identity and yield a stage, which is deleted unless it was committed.

        While another thread or process holds the identity, waits and calls `check` regularly. Check
        whether the view exists before filling the stage: the other holder may have made it. Raises
        NodeExhausted if the disk fills up meanwhile.
        """
        self.locate(identity)
        with (
            durable.exhaustion_explained(self.directory, f"environment {identity}", 4096),
            self._area.hold(identity, check) as tree,
        ):
            stage = ViewStage(tree, self._store, lambda: self._commit(identity))
            stage.store.mkdir(parents=True)
            yield stage

    def move_to_garbage(self, identity: str) -> bool:
        """Remove a view, to be deleted later; return False if it is held or does not exist."""
        place = self.locate(identity)
        with self._area.try_hold(identity) as is_held:
            if not is_held or not place.exists():
                return False
            self._area.move_to_garbage(identity)
            return True

    def quarantine(self, identity: str, paths: Iterable[StorePath]) -> None:
        """Mark a view's copies of some paths as damaged: nothing starts in it until `repair`."""
        mark = self.locate(identity) / _DAMAGED
        names = {each.basename for each in (*paths, *self.damaged(identity))}
        durable.write(mark, "".join(f"{name}\n" for name in sorted(names)).encode())

    def damaged(self, identity: str) -> tuple[StorePath, ...]:
        """Return the paths of which a view has copies that were found damaged."""
        try:
            names = (self.locate(identity) / _DAMAGED).read_text().split()
        except FileNotFoundError:
            return ()
        return tuple(storepaths.of_basename(name) for name in names)

    def repair(self, identity: str, check: Callable[[], None]) -> None:
        """Link the damaged paths of a view again from the store, where they must be present.

        Running containers see the new files from then on; what they have open or mapped remains the
        old file. Raises ContentDamaged for a path that is not present.
        """
        with self._area.hold(identity, check) as stage:
            damaged = self.damaged(identity)
            if not damaged:
                return
            for path in damaged:
                if self._store.record(path) is None:
                    raise errors.ContentDamaged(
                        f"{path} in environment {identity} is damaged and has not been fetched "
                        "again: run `cri-proxy store verify --repair`, or find out why it cannot be"
                    )
            place = self.locate(identity)
            (stage / "store").mkdir(parents=True)
            ViewStage(stage, self._store, lambda: None).link(damaged)
            with contextlib.suppress(FileNotFoundError):  # the new files may not be on disk yet
                (place / _LASTING).rename(place / self._boot)
            for path in damaged:
                new, old = (each / "store" / path.basename for each in (stage, place))
                if os.path.lexists(old):
                    durable.swap(new, old)
                else:
                    new.rename(old)
            (place / _DAMAGED).unlink()
        self._checkpointer.request()

    def checkpoint(self) -> None:
        """Sync what was committed in this boot, then give its marks their lasting names."""
        places = [self.directory / name for name in self._placed()]
        fresh = [place for place in places if (place / self._boot).exists()]
        if fresh:
            durable.sync_filesystem(self.directory)
        for place in fresh:
            with contextlib.suppress(FileNotFoundError):  # removed, or another process was faster
                (place / self._boot).rename(place / _LASTING)

    def recover(self) -> None:
        """Create the directories and drop what crashes left; locked names are left alone."""
        self._area.make()
        doubtful = {name for name in self._placed() if not self.has(name)}
        for name in sorted(self._area.names() | doubtful):
            with self._area.try_hold(name) as is_held:
                if is_held:
                    self._area.clear(name)
                    if not self.has(name):
                        self._area.remove(name)
        self._checkpointer.request()

    def _commit(self, identity: str) -> None:
        (self._area.tree_of(identity) / self._boot).touch()
        self._area.remove(identity)  # only after a power failure is there one
        self._area.place(identity)
        self._checkpointer.request()

    def _placed(self) -> set[str]:
        """Return the names of all views, complete or not."""
        return {each.name for each in self.directory.iterdir() if _IDENTITY.fullmatch(each.name)}


class ViewStage:
    """A view that is being made; callers write their own files into `directory` and `store`."""

    def __init__(self, directory: Path, store: Store, commit: Callable[[], None]) -> None:
        self.directory = directory
        self.store = directory / "store"
        self._store = store
        self._commit = commit
        self._linked: set[str] = set()

    def link(self, paths: Iterable[StorePath]) -> None:
        """Link store paths into the view.

        Raises ContentDamaged for a path that has vanished or was found damaged since,
        RequestInvalid if store and views are not on one file system.
        """
        paths = list(paths)
        names = [each.basename for each in paths]
        with (
            _opened(self._store.directory) as source,
            _opened(self.store) as target,
            ThreadPoolExecutor(_THREADS, thread_name_prefix="link") as executor,
        ):
            for _ in executor.map(lambda name: self._link_path(name, source, target), names):
                pass
        self._linked.update(names)
        for each in paths:
            if self._store.is_damaged(each):
                raise errors.ContentDamaged(
                    f"{each} was found damaged on this node: try again, and it is fetched again"
                )

    def can_link(self, paths: Iterable[StorePath]) -> bool:
        """Return whether the paths' files can be linked here: same file system, same mount."""
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

    def make_mount_points(self, paths: Iterable[StorePath]) -> tuple[Path, ...]:
        """Create a mount point for each path; return the paths on this node that are to be mounted.

        A symlink is copied instead. Raises ContentDamaged for a path that has vanished.
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
        """Set canonical modes and times on the caller's files; move the view into place."""
        with os.scandir(self.store) as entries:
            own = [Path(each.path) for each in entries if each.name not in self._linked]
        for each in own:
            _canonicalize(each)
        with _opened(self.store) as descriptor:
            _seal(descriptor)
        self._commit()

    def _link_path(self, name: str, source: int, target: int) -> None:
        try:
            is_directory = stat.S_ISDIR(os.lstat(name, dir_fd=source).st_mode)
            _link(name, source, target, is_directory=is_directory)
        except FileNotFoundError:
            raise _vanished(name, self._store.directory) from None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise errors.RequestInvalid(
                f"{self._store.directory} and {self.directory.parent.parent} must be on one file "
                f"system, because environments are hard links into the store: move one of them"
            ) from error


@contextlib.contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _vanished(name: str, directory: Path) -> errors.ContentDamaged:
    return errors.ContentDamaged(
        f"{name} has vanished from {directory} on this node: try again, and it is fetched again; "
        f"find out what deletes files there"
    )


def _first_file(path: Path) -> Path | None:
    if path.is_symlink():
        return None
    if path.is_file():
        return path
    for directory, _, names in os.walk(path):
        for name in names:
            if not (found := Path(directory, name)).is_symlink():
                return found
    return None


def _link(name: str, source: int, target: int, *, is_directory: bool) -> None:
    """Link a file or symlink, or copy it at the link limit; create a directory with linked ones."""
    if not is_directory:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            _copy_file(name, source, target)
        return
    os.mkdir(name, 0o700, dir_fd=target)
    with _opened(name, source) as old, _opened(name, target) as new, os.scandir(old) as entries:
        for each in entries:
            scheduling.give_way()
            _link(each.name, old, new, is_directory=each.is_dir(follow_symlinks=False))
        _seal(new)


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
    """Set the final mode and times of an open directory."""
    os.fchmod(directory, 0o555)
    os.utime(directory, ns=_TIMES)


def _canonicalize(path: Path) -> None:
    """Set the modes and times of a store path on a tree."""
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for each in path.iterdir():
            _canonicalize(each)
    if not stat.S_ISLNK(mode):
        is_executable = stat.S_ISDIR(mode) or mode & 0o111
        path.chmod(0o555 if is_executable else 0o444)
    os.utime(path, ns=_TIMES, follow_symlinks=False)
