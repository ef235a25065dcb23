"""Staging: trees are made beside their place and renamed into it, one at a time per name.

    <directory>/.locks                 the locks of names (`lib.locks.Names`)
    <directory>/.stage/<name>.tree     being made
    <directory>/.stage/<name>.gone     being deleted
    <directory>/.garbage/<random>      removed, to be deleted later: see `garbage`

The holder of a name's lock owns the name's entries, and it alone may put something in place under
that name or remove it. Locks end with their process, so an entry whose lock is free was left by a
crash. `local` stages store paths, `views` environments.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cri_proxy.lib import durable, locks

GARBAGE: Final = ".garbage"
LOCK_POLL_SECONDS: Final = 0.05


class Area:
    """The staging area of `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stage = directory / ".stage"
        self._begin = f"{directory}/.stage/"  # strings: see `local.Store`
        self._made: set[str] = set()  # names whose tree is in the stage, or may be
        self._locks = locks.Names(f"{directory}/.locks")

    def make(self) -> None:
        """Create the stage's directory."""
        self._stage.mkdir(mode=0o755, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def hold(self, name: str, check: Callable[[], None]) -> Iterator[Path]:
        """Lock a name; yield the path for its tree, which is absent before and after.

        While another thread or process holds the name, waits and calls `check` regularly. What the
        other holder was making may be in place afterwards.
        """
        while True:
            with self.try_stage(name) as tree:
                if tree is not None:
                    yield tree
                    return
            check()
            time.sleep(LOCK_POLL_SECONDS)

    @contextlib.contextmanager
    def try_stage(self, name: str) -> Iterator[Path | None]:
        """Lock a name as `hold` does, or yield None if it is locked already."""
        with self.try_hold(name) as is_held:
            if not is_held:
                yield None
                return
            tree = self.tree_of(name)
            durable.remove_tree(tree)
            self._made.add(name)
            try:
                yield tree
            finally:
                if name in self._made:
                    self._made.remove(name)
                    durable.remove_tree(tree)

    @contextlib.contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Lock a name, or yield False if it is locked already."""
        lock = self._locks.acquire(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self._locks.release(lock)

    def tree_of(self, name: str) -> Path:
        """Return where the tree of a held name is made."""
        return self._stage / f"{name}.tree"

    def place(self, name: str) -> None:
        """Move the tree of a held name into place."""
        _move(f"{self._begin}{name}.tree", f"{self._directory}/{name}")
        self._made.discard(name)

    def exchange(self, name: str) -> None:
        """Replace what is in place under a held name with its tree, atomically."""
        durable.swap(self.tree_of(name), self._directory / name)
        self._discard(self.tree_of(name))

    def move_to_garbage(self, name: str) -> None:
        """Remove what is in place under a held name; it is deleted later."""
        self._discard(self._directory / name)

    def remove(self, name: str) -> None:
        """Delete what is in place under a held name, if anything; half of it is never in place."""
        aside = f"{self._begin}{name}.gone"
        durable.remove_tree(aside)
        try:
            _move(f"{self._directory}/{name}", aside)
        except FileNotFoundError:
            return
        durable.remove_tree(aside)

    def clear(self, name: str) -> None:
        """Delete the stage entries of a held name."""
        durable.remove_tree(f"{self._begin}{name}.tree")
        durable.remove_tree(f"{self._begin}{name}.gone")

    def _discard(self, place: Path) -> None:
        garbage = self._directory / GARBAGE
        garbage.mkdir(mode=0o700, exist_ok=True)
        _move(str(place), f"{garbage}/{secrets.token_hex(8)}")

    def names(self) -> set[str]:
        """Return the names that have stage entries: held, or left by a crash."""
        split = (each.name.rpartition(".") for each in self._stage.iterdir())
        return {name for name, dot, _ in split if dot}


def _move(source: str, target: str) -> None:
    """Rename, read-only directories included: only root may move one without a chmod."""
    try:
        os.rename(source, target)  # noqa: PTH104
    except PermissionError:
        mode = os.lstat(source).st_mode & 0o7777
        os.chmod(source, mode | 0o200)  # noqa: PTH101
        os.rename(source, target)  # noqa: PTH104
        os.chmod(target, mode)  # noqa: PTH101
