"""Leases: what is about to be used on disk is protected from garbage collection.

    environments/<identity>/        flock(2) on the directory itself: shared while a container is
                                    created in it, exclusive while it is removed
    store/.leases/<token>           locked while one realization is under way; its modification
                                    time is when the realization began

Both end with their process, so nothing stays protected for a process that is gone. The last start
of an environment is the modification time of its record, which never changes otherwise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from cri_proxy.lib import locks

_RECORD: Final = "environment.json"


def share(place: Path) -> locks.Lock | None:
    """Lock the existing environment at `place` for use; None while it is being removed."""
    return locks.directory(place, is_shared=True)


def claim(place: Path) -> locks.Lock | None:
    """Lock the environment at `place` for removal; None if it is about to be used, or absent."""
    try:
        return locks.directory(place, is_shared=False)
    except FileNotFoundError:
        return None


def note_start(place: Path) -> None:
    """Record that the environment at `place`, if it is still there, is started now."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(place / _RECORD)


def last_start(place: Path) -> float:
    """Return when the environment at `place` was last started, or made if it never was."""
    return (place / _RECORD).stat().st_mtime


class Realizations:
    """The realizations under way on this node, of any process, that use the store `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / ".leases"

    def begin(self) -> locks.Lock:
        """Take the lease of a new realization, before it looks at a path; release it at the end."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = locks.file(self._directory / secrets.token_hex(16), is_waiting=True)
        assert lock is not None
        return lock

    def oldest(self) -> float | None:
        """Return when the oldest one under way began, if any; remove leases of ended processes."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for each in list(self._directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # it has just ended
                    began = each.stat().st_mtime
                    lock = locks.file(each)
                    if lock is None:
                        found.append(began)
                    else:
                        lock.release()
        return min(found, default=None)
