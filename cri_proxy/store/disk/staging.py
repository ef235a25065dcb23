"""The stage of a directory: where things are made before they are put in place, one by one.

    <directory>/.locks                 somebody is at work on this name: see `durable.Locks`
    <directory>/.stage/<name>.tree     being made
    <directory>/.stage/<name>.gone     being deleted
    <directory>/.garbage/<random>      taken away, to be deleted at leisure: see `garbage`

Whoever holds a name's lock owns its entries, and alone may put something in place under that name
or take it away. Locks die with the process that holds them, so an entry whose lock is free is what
a crash left. `local` stages store paths this way, `views` environments.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cri_proxy.lib import durable, exchange

GARBAGE: Final = ".garbage"
LOCK_POLL_SECONDS: Final = 0.05


class Area:
    """The stage in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stage = directory / ".stage"
        self._begin = f"{directory}/.stage/"  # strings where it is done for every path
        self._made: set[str] = set()  # names whose tree is here, or may be
        self._locks = durable.Locks(f"{directory}/.locks")

    def make(self) -> None:
        """Make the stage's directory."""
        self._stage.mkdir(mode=0o755, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def hold(self, name: str, check: Callable[[], None]) -> Iterator[Path]:
        """Hold a name; give the place for its tree, where nothing is before and after.

        Waits while another thread or process has it, and calls `check` now and then meanwhile:
        what the other one was making may be in place afterwards.
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
        """Hold a name as `hold` does, if nobody else does now; else give None."""
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
        """Hold a name, if nobody else does now."""
        lock = self._locks.acquire(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self._locks.release(lock)

    def tree_of(self, name: str) -> Path:
        """Return where the tree of a name that is held is made."""
        return self._stage / f"{name}.tree"

    def place(self, name: str) -> None:
        """Put the tree of a name that is held in place."""
        _move(f"{self._begin}{name}.tree", f"{self._directory}/{name}")
        self._made.discard(name)

    def exchange(self, name: str) -> None:
        """Put the tree of a name that is held in place of what is there, at once."""
        exchange.swap(self.tree_of(name), self._directory / name)
        self._banish(self.tree_of(name))

    def set_aside(self, name: str) -> None:
        """Take away what is in place under a name that is held; it is deleted later."""
        self._banish(self._directory / name)

    def discard(self, name: str) -> None:
        """Delete what is in place under a name that is held; never is half of it in place."""
        aside = f"{self._begin}{name}.gone"
        durable.remove_tree(aside)
        try:
            _move(f"{self._directory}/{name}", aside)
        except FileNotFoundError:
            return
        durable.remove_tree(aside)

    def clear(self, name: str) -> None:
        """Delete the stage entries of a name that is held."""
        durable.remove_tree(f"{self._begin}{name}.tree")
        durable.remove_tree(f"{self._begin}{name}.gone")

    def _banish(self, place: Path) -> None:
        garbage = self._directory / GARBAGE
        garbage.mkdir(mode=0o700, exist_ok=True)
        _move(str(place), f"{garbage}/{secrets.token_hex(8)}")

    def names(self) -> set[str]:
        """Return the names that have entries: in use, or left by a crash."""
        split = (each.name.rpartition(".") for each in self._stage.iterdir())
        return {name for name, dot, _ in split if dot}


def _move(source: str, target: str) -> None:
    """Rename, also a read-only directory of ours: only root may move one without touching it."""
    try:
        os.rename(source, target)  # noqa: PTH104
    except PermissionError:
        mode = os.lstat(source).st_mode & 0o7777
        os.chmod(source, mode | 0o200)  # noqa: PTH101
        os.rename(source, target)  # noqa: PTH104
        os.chmod(target, mode)  # noqa: PTH101
