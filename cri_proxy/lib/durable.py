"""Files that survive crashes: written whole, synced, swapped, removed; and "disk full" explained.

Nothing here waits for the disk unless its docstring says so. `boot_id` tells whether data that was
never synced can be relied on: a crash of a process keeps the page cache, a crash of the machine
loses it and changes the id.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling

_libc: Final = ctypes.CDLL(None, use_errno=True)
_RENAME_EXCHANGE: Final = 2  # <linux/fs.h>
_AT_FDCWD: Final = -100  # <fcntl.h>
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot: 32 hexadecimal digits."""
    return _BOOT_ID.read_text().strip().replace("-", "")


def sync_filesystem(path: Path) -> None:
    """Write everything of the file system that holds `path` to disk, and wait (syncfs(2))."""
    with _opened(path) as descriptor:
        if _libc.syncfs(descriptor) != 0:
            raise _error_at(path)


def sync_directory(path: Path) -> None:
    """Write the entries of the directory `path` to disk, and wait (fsync(2))."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def write(path: Path, data: bytes, *, mode: int = 0o644, is_synced: bool = True) -> None:
    """Replace the file `path` atomically and, if `is_synced`, wait until it is on disk.

    A reader sees all of the old contents or all of the new.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if is_synced:
                file.flush()
                os.fsync(descriptor)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if is_synced:
        sync_directory(path.parent)


def swap(one: Path, other: Path) -> None:
    """Exchange two paths of one file system atomically; both must exist (renameat2(2)).

    On a file system without the exchange (some network file systems) three renames take its place,
    and for a moment nothing is at `one`.
    """
    arguments = _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    if _libc.renameat2(*arguments) == 0:
        return
    error = _error_at(one)
    if error.errno not in {errno.EINVAL, errno.ENOSYS}:
        raise error
    aside = one.with_name(f".swap-{secrets.token_hex(8)}")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def remove_tree(
    path: str | Path,
    on_entry: Callable[[], None] = scheduling.give_way,
    *,
    parent: int | None = None,
) -> None:
    """Remove the file, symlink or tree at `path`, if any, read-only directories included.

    Calls `on_entry` before it removes an entry. Other processes may be removing the same tree.
    `path` may be relative to the open directory `parent`.
    """
    on_entry()
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path, dir_fd=parent).st_mode):
            os.unlink(path, dir_fd=parent)
            return
        descriptor = _open_to_empty(path, parent)
        try:
            for name in os.listdir(descriptor):  # noqa: PTH208 - relative to the descriptor
                remove_tree(name, on_entry, parent=descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(path, dir_fd=parent)


@contextlib.contextmanager
def exhaustion_explained(directory: Path, purpose: str, needed: int) -> Iterator[None]:
    """Raise NodeExhausted, with the bytes needed and free, for "no space left" in the body."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise exhaustion_of(directory, purpose, needed) from error


def exhaustion_of(directory: Path, purpose: str, needed: int) -> errors.NodeExhausted:
    """Return the error for too little space in the file system of `directory`."""
    state = os.statvfs(directory)
    inodes = "" if state.f_favail or not state.f_files else " and no inode"
    return errors.NodeExhausted(
        f"the file system of {directory} has no room for {purpose}: {needed} bytes are needed and "
        f"{state.f_bavail * state.f_frsize} are free{inodes}; free some space on the node"
    )


def _open_to_empty(name: str | Path, parent: int | None) -> int:
    """Open a directory, and give its owner the permissions that emptying it takes."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, flags, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        os.fchmod(descriptor, 0o700)
    return descriptor


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _error_at(path: Path) -> OSError:
    """Return the error of the C library's call that has just failed."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))
