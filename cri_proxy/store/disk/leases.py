"""Leases: whoever is about to use something on disk holds it against the collection of garbage.

    environments/<identity>/        flock(2) on the directory itself: shared by whoever creates a
                                    container in it, exclusive for whoever takes it away
    store/.leases/<token>           locked while one realization is under way; its time of change
                                    is when that began

Both die with their process, so that nothing is held by somebody who is gone. The lock is on the
inode: what is at the place afterwards may be another directory, so that is looked at again.

When an environment was last started is the time of its record, which never changes otherwise.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from cri_proxy.lib import durable

_RECORD: Final = "environment.json"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Lease:
    """A lock on a directory, until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; once."""
        os.close(self._descriptor)


def share(place: Path) -> Lease | None:
    """Hold the environment at `place` with others; None while somebody is taking it away.

    Raises FileNotFoundError when there is none.
    """
    return _take(place, fcntl.LOCK_SH)


def claim(place: Path) -> Lease | None:
    """Hold the environment at `place` alone; None while somebody is about to use it, or it is gone.

    Whoever comes to `share` it meanwhile waits.
    """
    try:
        return _take(place, fcntl.LOCK_EX)
    except FileNotFoundError:
        return None


def note_start(place: Path) -> None:
    """Note that the environment at `place` is started now; one that is gone needs no note."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(place / _RECORD)


def last_start(place: Path) -> float:
    """Return when the environment at `place` was started last, or made if it never was."""
    return (place / _RECORD).stat().st_mtime


class Realizations:
    """The realizations under way on this node, of any process, that use the store `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / ".leases"

    def begin(self) -> durable.Lock:
        """Return the lease of a new one, to be released at its end; before it looks at a path."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            lock = durable.Lock.acquire(self._directory / secrets.token_hex(16))
            if lock is not None:
                return lock

    def oldest(self) -> float | None:
        """Return when the oldest of those under way began; None when there is none.

        What a process left that is gone is removed on the way.
        """
        found = []
        with contextlib.suppress(FileNotFoundError):
            for each in list(self._directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # it has just ended
                    began = each.stat().st_mtime
                    lock = durable.Lock.acquire(each)
                    if lock is None:
                        found.append(began)
                    else:
                        lock.release()
        return min(found, default=None)


def _take(place: Path, kind: int) -> Lease | None:
    descriptor = os.open(place, _DIRECTORY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), place.lstat()):
            return Lease(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise FileNotFoundError(place)
