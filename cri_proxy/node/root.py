"""A node's file system: that of this machine, or an image unpacked in a directory."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cri_proxy import errors

_LINKS_AT_MOST: Final = 40


def owners_of(status: os.stat_result) -> tuple[str, str]:
    """Return user and group of a file by name, or by number where they have no name."""
    user, group = str(status.st_uid), str(status.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return user, group


@dataclass(frozen=True, slots=True)
class Root:
    """The file system below `directory`; paths are absolute, as the node itself sees them."""

    directory: Path = Path("/")

    @property
    def is_running(self) -> bool:
        """Whether this is the file system of the running machine, not of an image."""
        return self.directory == Path("/")

    def at(self, place: str | PurePosixPath) -> Path:
        """Return a node's path as one of this machine; a link at its end is not followed."""
        path = PurePosixPath(place)
        return self.real(path.parent) / path.name

    def real(self, place: str | PurePosixPath) -> Path:
        """Return the same with all symbolic links followed: absolute ones start at this root."""
        done: list[str] = []
        waiting = list(reversed(PurePosixPath(place).parts[1:]))
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                done = done[:-1]
                continue
            path = self.directory.joinpath(*done, part)
            if not path.is_symlink():
                done.append(part)
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                raise errors.RequestInvalid(f"{path} is in a loop of symbolic links: fix it")
            target = path.readlink()
            if target.is_absolute():
                done = []
            waiting += [each for each in reversed(target.parts) if each != target.anchor]
        return self.directory.joinpath(*done)

    def text(self, place: str | PurePosixPath) -> str | None:
        """Return the text of a file, None if there is none."""
        try:
            return self.real(place).read_text(errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def names(self, place: str | PurePosixPath) -> list[str]:
        """Return the sorted names in a directory, an empty list if there is none."""
        try:
            return sorted(each.name for each in self.real(place).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
