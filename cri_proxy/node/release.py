"""The program on the node: a directory for each version, and a link that says which one runs.

    /opt/cri-proxy/
        releases/<version>-<digest>/    the unpacked tarball, by what is in it
        current -> releases/…           what the unit starts; moved in one go
    /usr/local/bin/cri-proxy -> /opt/cri-proxy/current/bin/cri-proxy

A running daemon goes on in its own directory when `current` has moved. The release before the
present one is kept, to go back to; older ones are removed. When the program does not come from a
tarball (a virtual environment, say) it stays where it is, and the unit names it there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cri_proxy

DIRECTORY: Final = "/opt/cri-proxy"
CURRENT: Final = f"{DIRECTORY}/current"
COMMAND: Final = "/usr/local/bin/cri-proxy"


@dataclass(frozen=True, slots=True)
class Release:
    """The program that runs this very code; `tree` is its unpacked tarball, if it has one."""

    tree: Path | None
    name: str

    @property
    def place(self) -> str:
        """Return where the tree goes on a node."""
        return f"{DIRECTORY}/releases/{self.name}"

    @property
    def program(self) -> str:
        """Return the command line that starts it on the node."""
        if self.tree is not None:
            return f"{CURRENT}/bin/cri-proxy"
        script = Path(sys.executable).with_name("cri-proxy")
        return str(script) if script.exists() else f"{sys.executable} -m cri_proxy"

    def copy(self, target: Path) -> None:
        """Copy the tree into the empty directory `target`, and see to it that it lasts."""
        assert self.tree is not None
        shutil.copytree(self.tree, target, symlinks=True, dirs_exist_ok=True)
        for path in target.rglob("*"):
            os.chown(path, 0, 0, follow_symlinks=False)
        os.sync()


def present() -> Release:
    """Return the release that is running."""
    tree = Path(sys.prefix)
    if not (tree / "libexec/cri-proxy").exists():
        return Release(None, cri_proxy.__version__)
    return Release(tree, f"{cri_proxy.__version__}-{_digest(tree)[:12]}")


def outdated(directories: list[str], current: Release, previous: str | None) -> list[str]:
    """Return those of our directories that nobody goes back to; `previous` is a link's target."""
    before = None if previous is None else f"{DIRECTORY}/{previous}"
    if before in (None, current.place):  # no upgrade
        return []
    kept = (before, current.place)
    return [
        each
        for each in directories
        if each.startswith(f"{DIRECTORY}/releases/") and each not in kept
    ]


def _digest(tree: Path) -> str:
    """Return a digest of names, modes and contents."""
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        total.update(f"{path.relative_to(tree)}\0{status.st_mode & 0o111:o}\0".encode())
        if stat.S_ISLNK(status.st_mode):
            total.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
