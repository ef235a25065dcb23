"""A control-group tree by name, in all hierarchies of this machine.

With cgroup v2 that is one directory; with v1 it is a directory of the same name in each of a dozen
hierarchies. The testbed gives its pods a tree of their own, so that their processes can be found
even after the runtime has been killed.
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
        for directory, _, _ in os.walk(tree)  # tolerates groups that are removed meanwhile
        for pid in _text(Path(directory, "cgroup.procs")).split()
    }


def create(name: str) -> None:
    """Create the tree in every hierarchy, ready for processes and child groups."""
    for mount in _hierarchies():
        tree = mount / name
        tree.mkdir(exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):  # empty at first in cgroup v1
            file = tree / inherited
            if file.exists() and not _text(file).strip() and (text := _text(mount / inherited)):
                file.write_text(text)


def remove(name: str) -> None:
    """Remove the tree; its processes are dead, but the kernel may still be cleaning up."""
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
    except OSError:  # the group was just removed, or its controller does not list processes
        return ""
