"""The program's files on the node: a directory per release, and a link to the current one.

    /opt/cri-proxy/
        releases/<version>-<digest>/    the unpacked tarball; the digest is of its content
        current -> releases/…           what the unit starts; replaced atomically
    /usr/local/bin/cri-proxy -> /opt/cri-proxy/current/bin/cri-proxy

A running daemon continues in its own directory when `current` changes. The previous release is kept
for a rollback; older ones are removed. A program that does not come from a tarball, but from a
virtual environment for example, stays where it is, and the unit starts it there.
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
    """The running program; `tree` is its unpacked tarball, None if it does not come from one."""

    tree: Path | None
    name: str

    @property
    def place(self) -> str:
        """Return the directory of the release on a node."""
        return f"{DIRECTORY}/releases/{self.name}"

    @property
    def program(self) -> str:
        """Return the command line that starts the release on a node."""
        if self.tree is not None:
            return f"{CURRENT}/bin/cri-proxy"
        script = Path(sys.executable).with_name("cri-proxy")
        return str(script) if script.exists() else f"{sys.executable} -m cri_proxy"

    @property
    def links(self) -> dict[str, str]:
        """Return the symbolic links to the release, path to target."""
        if self.tree is None:
            return {}
        return {CURRENT: f"releases/{self.name}", COMMAND: f"{CURRENT}/bin/cri-proxy"}

    def copy(self, target: Path) -> None:
        """Copy the tree into the empty directory `target` and sync it to disk."""
        assert self.tree is not None
        shutil.copytree(self.tree, target, symlinks=True, dirs_exist_ok=True)
        for path in target.rglob("*"):
            os.chown(path, 0, 0, follow_symlinks=False)
        os.sync()


def present() -> Release:
    """Return the release of the running program."""
    tree = Path(sys.prefix)
    if not (tree / "libexec/cri-proxy").exists():
        return Release(None, cri_proxy.__version__)
    return Release(tree, f"{cri_proxy.__version__}-{_digest(tree)[:12]}")


def outdated(directories: list[str], current: Release, previous: str | None) -> list[str]:
    """Return the releases among `directories` that an upgrade from `previous` no longer needs.

    `previous` is the target of the `current` link before the upgrade.
    """
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
    """Return a digest of the names, modes and contents in a tree."""
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
