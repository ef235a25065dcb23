"""Files that survive crashes: written whole, synced, removed as trees, and "disk full" explained.

Nothing here waits for the disk unless its docstring says so. `boot_id` tells whether data that was
never synced can be relied on: a crash of a process keeps the page cache, a crash of the machine
loses it and changes the id.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling

_libc: Final = ctypes.CDLL(None, use_errno=True)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot: 32 hexadecimal digits."""
    return _BOOT_ID.read_text().strip().replace("-", "")


def sync_filesystem(path: Path) -> None:
    """Write everything of the file system that holds `path` to disk, and wait (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Write the entries of the directory `path` to disk, and wait (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def remove_tree(path: str | Path) -> None:
    """Remove the file, symlink or tree at `path`, if any, read-only directories included."""
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


def open_directory(name: str | Path, parent: int | None = None) -> int:
    """Open a directory to empty it, and give its owner the permissions that this takes."""
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
    """Remove everything in an open directory."""
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
