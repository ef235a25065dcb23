"""File trees of the node's store, seen as a container will see them.

A path of the store is named `/nix/store/…` and lies elsewhere on the node, so symbolic links are
resolved here, within the store only: the operating system would follow them into the node's own
file system. A link that leaves the store leads to nothing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Final

from cri_proxy.model import storepaths
from cri_proxy.realizer.rendering import Entry, TargetKind

_MOST_LINKS: Final = 40
_LARGEST_LIST: Final = 1024 * 1024


class Trees:
    """The store paths below one directory of the node."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def listing(self, path: str) -> dict[str, Entry]:
        """Return the entries of the directory at `path`, empty when there is no directory."""
        directory = self.entry(path)
        if directory.kind is not TargetKind.DIRECTORY:
            return {}
        found: dict[str, Entry] = {}
        with os.scandir(self._place(directory.resolved)) as entries:
            for each in entries:
                name = f"{directory.resolved}/{each.name}"
                is_directory = each.is_dir(follow_symlinks=False)
                kind = TargetKind.DIRECTORY if is_directory else TargetKind.FILE
                found[each.name] = self.entry(name) if each.is_symlink() else Entry(kind, name)
        return found

    def entry(self, path: str) -> Entry:
        """Return what `path` leads to, following the links of every component."""
        todo = list(reversed(PurePosixPath(path).parts[1:]))
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            done.append(part)
            if len(done) <= 2:
                continue
            here = "/" + "/".join(done)
            mode = self._mode(here)
            if mode is None:
                return Entry(TargetKind.NOTHING, here)
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MOST_LINKS:
                    return Entry(TargetKind.NOTHING, here)
                target = PurePosixPath(self._place(here).readlink())
                done = [] if target.is_absolute() else done[:-1]
                todo.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            elif todo and not stat.S_ISDIR(mode):
                return Entry(TargetKind.NOTHING, here)
        resolved = "/" + "/".join(done)
        mode = self._mode(resolved) if len(done) > 2 else None
        if mode is None:
            return Entry(TargetKind.NOTHING, resolved)
        return Entry(TargetKind.DIRECTORY if stat.S_ISDIR(mode) else TargetKind.FILE, resolved)

    def words(self, path: str) -> tuple[str, ...]:
        """Return the words of a small text file such as nix-support's lists, () when absent."""
        entry = self.entry(path)
        if entry.kind is not TargetKind.FILE:
            return ()
        with self._place(entry.resolved).open("rb") as file:
            return tuple(file.read(_LARGEST_LIST).decode("utf-8", "replace").split())

    def _mode(self, path: str) -> int | None:
        """Return the mode of `path` itself, None when it is absent or outside the store."""
        if not path.startswith(storepaths.STORE + "/"):
            return None
        try:
            return self._place(path).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _place(self, path: str) -> Path:
        """Return where on the node the path `/nix/store/…`, free of links, lies."""
        return self._store / path.removeprefix(storepaths.STORE + "/")
