"""One control-group tree by name, in whatever hierarchies this machine has.

With cgroup v2 that is one directory; with v1 it is a directory of the same name in each of a
dozen hierarchies. The testbed gives its pods a tree of their own, so that what belongs to it is
known even after everything that could tell has been killed.
"""

from __future__ import annotations

import os
from pathlib import Path

from hack.testbed import waiting


def trees(name: str) -> list[Path]:
    """Return the directories of the tree `name` (a path without leading slash) that exist."""
    return [path for mount in _hierarchies() if (path := mount / name).is_dir()]


def processes(name: str) -> set[int]:
    """Return the ids of all processes anywhere in the tree."""
    return {
        int(pid)
        for tree in trees(name)
        for directory, _, _ in os.walk(tree)  # which a group that goes meanwhile does not disturb
        for pid in _text(Path(directory, "cgroup.procs")).split()
    }


def create(name: str) -> None:
    """Make the tree in every hierarchy, ready to have processes in it and groups below it."""
    for mount in _hierarchies():
        tree = mount / name
        tree.mkdir(exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):  # version 1 has them empty at first
            file = tree / inherited
            if file.exists() and not _text(file).strip() and (text := _text(mount / inherited)):
                file.write_text(text)


def remove(name: str) -> None:
    """Remove the tree; its processes are dead, though the kernel may not have noted it yet."""
    waiting.until(lambda: _has_removed(name), what=f"the control groups {name} to be removable")


def _has_removed(name: str) -> bool:
    for tree in trees(name):
        for directory, _, _ in os.walk(tree, topdown=False):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
    return True


def _hierarchies() -> list[Path]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the group has just gone, or its controller does not list processes
        return ""
