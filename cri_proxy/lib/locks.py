"""Locks between threads and between processes, which the kernel releases when their holder ends.

Two schemes, both advisory and both owned by an open file, so that two holders exclude each other
within one process exactly as they do across processes:

    file, directory   flock(2) on what a path names, exclusive or shared: for the few locks that are
                      held long (a lease, a garbage collection, a socket that is being replaced)
    Names             one byte per name in a file that stays (fcntl(2), F_OFD_SETLK): for each store
                      path and view that is made; 2.4 us, where a lock file of its own takes 35 us

Both are fixed protocols on disk: during an upgrade the daemons of two releases run side by side
and must exclude each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import Final

_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BYTE_LOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2) on 64-bit systems: type, whence, start, length, process."""


class Lock:
    """A flock(2), held until `release` or the end of the process."""

    def __init__(self, descriptor: int, file: str | Path | None = None) -> None:
        self._descriptor = descriptor
        self._file = file

    def release(self) -> None:
        """Release the lock and remove its file, if it has one of its own; call once."""
        try:
            if self._file is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._file)  # noqa: PTH108 - a name, where it is for every path
            # Closing is not enough: a child between fork and exec has the descriptor as well.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self._descriptor)


def file(path: str | Path, *, is_waiting: bool = False, is_kept: bool = False) -> Lock | None:
    """Lock the file `path` exclusively, creating it; return None if it is locked already.

    With `is_waiting`, wait for it instead. The file is removed on release unless it `is_kept`.
    """
    operation = fcntl.LOCK_EX if is_waiting else fcntl.LOCK_EX | fcntl.LOCK_NB
    return _locked(path, _FILE, operation, None if is_kept else path)


def directory(path: Path, *, is_shared: bool) -> Lock | None:
    """Lock an existing directory, shared or exclusively; None if another holder excludes that."""
    operation = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    return _locked(path, _DIRECTORY, operation | fcntl.LOCK_NB)


class Names:
    """Exclusive locks on any number of names, all in the file `path`.

    A name's lock is that of the byte at the offset that the name's digest gives, so nothing is
    created or deleted for it. The file is never removed, but it is open only while a name is
    locked, so that an idle store does not keep its file system from being unmounted.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._changing = threading.Lock()
        self._held: set[int] = set()
        self._descriptor = -1  # open while a lock is held

    def acquire(self, name: str) -> int | None:
        """Lock a name and return the handle for `release`; return None if it is locked already."""
        offset = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2
        with self._changing:
            # The kernel's lock belongs to the open file, which the threads of a process share.
            if offset in self._held:
                return None
            if not self._held:
                self._descriptor = os.open(self._path, _FILE, 0o600)
            try:
                self._set(offset, fcntl.F_WRLCK)
                self._held.add(offset)
            except (BlockingIOError, PermissionError):  # fcntl(2) names EAGAIN and EACCES
                return None
            finally:
                self._close_unless_held()
            return offset

    def release(self, offset: int) -> None:
        """Release a lock; call once."""
        with self._changing:
            self._held.remove(offset)
            self._set(offset, fcntl.F_UNLCK)  # a child between fork and exec has the file as well
            self._close_unless_held()

    def _set(self, offset: int, kind: int) -> None:
        wanted = _BYTE_LOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, wanted)

    def _close_unless_held(self) -> None:
        if not self._held:
            os.close(self._descriptor)


def _locked(
    path: str | Path, flags: int, operation: int, file: str | Path | None = None
) -> Lock | None:
    """Open and flock what `path` names, at the end as at the beginning; None if that would block.

    The lock is on the inode, which its last holder may have removed or replaced between our open
    and our flock. Such a lock excludes no one, so begin again with what is there now.
    """
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # noqa: PTH116
                    return Lock(descriptor, file)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        os.close(descriptor)
