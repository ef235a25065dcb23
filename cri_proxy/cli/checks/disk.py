"""Checks of the store's directory: writable, hard links, executable files, free space."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cri_proxy.cli import numbers
from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.settings import schema

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ROOMY_BYTES: Final = 10e9
_TIGHT_BYTES: Final = 1e9
_ROOMY_FILES: Final = 200_000
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = re.compile(r"nfs.*|cifs|smb.*|9p|ceph|fuse\..*")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system; `options` are those of the mount and of the file system."""

    place: Path
    kind: str
    options: frozenset[str]


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group."""
    root = settings.store.root
    return [
        Check("store", partial(place, root)),
        Check("store file system", partial(file_system, root, _MOUNTS.read_text())),
        Check("hard links", partial(hard_links, root)),
        Check("free space", partial(space, root)),
    ]


def place(root: Path) -> Finding:
    """Check that the store's directory exists or can be created."""
    nearest = existing(root)
    if not nearest.is_dir():
        return findings.fail(
            f"{nearest} is not a directory", "remove or rename it, or set store.root"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        return findings.fail(
            f"{nearest} is not writable", "run the check as root, or set store.root"
        )
    return findings.ok(str(root) if nearest == root else f"{root} (created at the first start)")


def file_system(root: Path, mounts: str) -> Finding:
    """Check the file system of `root`; `mounts` is the text of a mountinfo file (proc(5))."""
    mount = mount_of(existing(root).resolve(), mounts)
    found = f"{mount.kind} on {mount.place}"
    elsewhere = "set store.root to a directory on a local disk"
    if "ro" in mount.options:
        return findings.fail(f"{found} is mounted read-only", elsewhere)
    if "noexec" in mount.options:
        return findings.fail(
            f"{found} is mounted noexec, so programs in environments cannot run",
            f"mount it without noexec, or {elsewhere}",
        )
    if mount.kind in _VOLATILE:
        return findings.warn(f"{found} is in memory: environments are lost at a reboot", elsewhere)
    if _REMOTE.fullmatch(mount.kind):
        return findings.warn(f"{found} is a network file system", elsewhere)
    return findings.ok(found)


def hard_links(root: Path) -> Finding:
    """Check that hard links work, of which the views of environments consist."""
    nearest = existing(root)
    try:
        with tempfile.TemporaryDirectory(prefix=".cri-proxy-check-", dir=nearest) as directory:
            file = Path(directory) / "file"
            file.touch()
            (Path(directory) / "link").hardlink_to(file)
    except PermissionError as error:
        return findings.fail(f"{nearest}: {error.strerror}", "run the check as root")
    except OSError as error:
        return findings.fail(
            f"{nearest} does not support them ({error.strerror})",
            "set store.root to a file system with hard links, such as ext4, xfs or btrfs",
        )
    return findings.ok(f"work in {nearest}")


def space(root: Path) -> Finding:
    """Check the free space and the number of free inodes."""
    status = os.statvfs(existing(root))
    free = status.f_bavail * status.f_frsize
    found = f"{numbers.size(free)} free of {numbers.size(status.f_blocks * status.f_frsize)}"
    advice = "free space, or set store.root to a larger disk: an environment takes 0.2 to 2 GB"
    if free < _TIGHT_BYTES:
        return findings.fail(found, advice)
    if free < _ROOMY_BYTES:
        return findings.warn(found, advice)
    if status.f_files and status.f_favail < _ROOMY_FILES:  # btrfs has no fixed number of inodes
        return findings.warn(
            f"{found}, but only {status.f_favail} inodes",
            "set store.root to a file system with more inodes: an environment takes about 20,000",
        )
    return findings.ok(found)


def existing(path: Path) -> Path:
    """Return `path`, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def mount_of(path: Path, mounts: str) -> Mount:
    """Return the mount that `path` is on: the deepest one, of several there the latest."""
    found = Mount(Path("/"), "unknown", frozenset())
    for line in mounts.splitlines():
        here, _, there = line.partition(" - ")
        fields, rest = here.split(), there.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        # Blanks and backslashes in paths are escaped as three octal digits.
        name = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        mount = Path(name)
        if path.is_relative_to(mount) and len(mount.parts) >= len(found.place.parts):
            options = frozenset(fields[5].split(",")) | frozenset(rest[2].split(","))
            found = Mount(mount, rest[0], options)
    return found
