"""What the disk promises: whole files, whole trees, locks that die with their holder.

Nothing here waits for the disk unless it says so. The usual order is write-sync-rename; for large
trees that order would make every cold pod wait for the slowest disk of the node, and syncfs(2)
for whatever else is dirty there (an image being pulled). `boot_id` allows the other one: rename at
once under a name that holds in this boot only, sync later, then give it its lasting name. A crash
of ours keeps the page cache, so what was renamed is whole; a crash of the machine changes the boot
id, so what was never synced is recognized and dropped. `Settler` does the later part.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling

QUIET_SECONDS: Final = 5.0
UNSETTLED_SECONDS: Final = 60.0
_logger = logging.getLogger(__name__)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_BYTE_LOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2) on 64 bits: kind, whence, start, length, process."""


@cache
def boot_id() -> str:
    """Return the kernel's name of this boot: 32 hexadecimal digits."""
    return _BOOT_ID.read_text().strip().replace("-", "")


class Settler:
    """Calls `settle` in the background, once for many a `poke`: when they have ceased for a while.

    For what must happen in the end but nobody waits for, and what would stand in the way of those
    who do: while a syncfs is under way, a journaling file system lets nobody create a file. A
    process that ends before leaves it to the next one's recovery, so `settle` must find by itself
    what there is to do.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle
        self._poked = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def poke(self) -> None:
        """Tell that there is something to settle."""
        self._poked.set()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._poked.wait()
            latest = time.monotonic() + UNSETTLED_SECONDS
            while self._poked.is_set() and time.monotonic() < latest:
                self._poked.clear()
                time.sleep(QUIET_SECONDS)
            try:
                self._settle()
            except OSError as error:
                _logger.error("disk refuses to keep what was committed: %s", error)


def sync_filesystem(path: Path) -> None:
    """Wait until all of the file system that holds `path` is on disk (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Wait until the names in the directory `path` are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make `path` a file of `data`, whole and on disk; a reader sees the old one or the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


class Lock:
    """An exclusive lock on the file `path`, held until `release` or the end of the process.

    The file exists only while somebody uses it: the holder removes it on release, and whoever
    then gets the lock of the removed file notices and begins anew.
    """

    def __init__(self, path: str | Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: str | Path) -> Lock | None:
        """Take the lock, or return None if another thread or process has it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, descriptor):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self) -> None:
        """Give the lock up; once."""
        try:
            os.unlink(self._path)  # noqa: PTH108 - a name, where it is for every path
        except FileNotFoundError:
            pass
        finally:
            os.close(self._descriptor)


class Locks:
    """Exclusive locks on many names, all in the file `path`, which stays.

    The lock of a name is that of one byte (fcntl(2), F_OFD_SETLK), at a place that is the name's
    digest: nothing is created or deleted for it, which would cost ten times as much. Held until
    `release` or the end of the process. Safe for threads, and between them as between processes.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._changing = threading.Lock()
        self._held: set[int] = set()
        self._descriptor = -1  # open while a lock is held

    def acquire(self, name: str) -> int | None:
        """Take the lock of a name, or return None if another thread or process has it.

        What is returned is for `release`.
        """
        place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2
        with self._changing:
            if place in self._held:
                return None
            if not self._held:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            try:
                self._change(place, fcntl.F_WRLCK)
                self._held.add(place)
            except (BlockingIOError, PermissionError):
                return None
            finally:
                self._close_unless_held()
            return place

    def release(self, place: int) -> None:
        """Give a lock up; once."""
        with self._changing:
            self._held.remove(place)
            self._change(place, fcntl.F_UNLCK)  # a process being forked may have the file, too
            self._close_unless_held()

    def _change(self, place: int, kind: int) -> None:
        """Lock or unlock a byte."""
        wanted = _BYTE_LOCK.pack(kind, os.SEEK_SET, place, 1, 0)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, wanted)

    def _close_unless_held(self) -> None:
        """Close the file, which ends all locks, when there are none."""
        if not self._held:
            os.close(self._descriptor)


def remove_tree(path: str | Path) -> None:
    """Remove whatever is at `path`, read-only directories included; nothing there is fine."""
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_directory:
        Path(path).unlink(missing_ok=True)
        return
    descriptor = open_directory(path)
    try:
        _empty(descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(path)  # noqa: PTH106


@contextlib.contextmanager
def exhaustion_explained(directory: Path, purpose: str, needed: int) -> Iterator[None]:
    """Turn "no space left" inside into NodeExhausted: how many bytes were needed and are free."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise exhaustion_of(directory, purpose, needed) from error


def exhaustion_of(directory: Path, purpose: str, needed: int) -> errors.NodeExhausted:
    """Return the refusal for lack of space below `directory`."""
    state = os.statvfs(directory)
    inodes = "" if state.f_favail or not state.f_files else " and no inode"
    return errors.NodeExhausted(
        f"the file system of {directory} has no room for {purpose}: {needed} bytes are needed and "
        f"{state.f_bavail * state.f_frsize} are free{inodes}; free some space on the node"
    )


def _is_at(path: str | Path, descriptor: int) -> bool:
    """Whether the open file is still the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def open_directory(name: str | Path, parent: int | None = None) -> int:
    """Open a directory for emptying it; only its owner's lack of permission is mended."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, flags, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        os.fchmod(descriptor, 0o700)
    return descriptor


def _empty(directory: int) -> None:
    """Remove everything inside an open directory."""
    with os.scandir(directory) as entries:
        listing = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
    for name, is_directory in listing:
        scheduling.give_way()
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        child = open_directory(name, directory)
        try:
            _empty(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)
