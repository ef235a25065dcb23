"""NAR writer: a file tree as its canonical archive.

It serves to verify a store path on disk against the hash it was fetched with, and to publish.
Entries are written in byte order of their names and files in pieces, so equal trees give equal
bytes and no file is in memory as a whole. Only names, types, contents, symlink targets and the
owner's executable bit count; times, owners and other modes are not part of the format.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling
from cri_proxy.store.nar import grammar

Sink = Callable[[bytes], object]
"""Receives the pieces of an archive, like `hash.update` and `file.write`."""

_PIECE_BYTES: Final = 256 * 1024
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = _FILE | os.O_DIRECTORY


def write(path: Path, sink: Sink) -> None:
    """Write the archive of the tree at `path` to `sink`, piece by piece.

    Raises ContentDamaged for what no archive can hold (a device, a socket, directories deeper than
    `unpack` accepts) and for a file that is truncated meanwhile; OSError as it comes.
    """
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sink(grammar.MAGIC)
        _Writer(sink, [os.fsencode(path)]).node(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def digest_of(path: Path) -> tuple[bytes, int]:
    """Return sha256 (32 bytes) and size of the archive of a tree; raises like `write`."""
    digest, size = hashlib.sha256(), 0

    def count(piece: bytes) -> None:
        nonlocal size
        digest.update(piece)
        size += len(piece)

    write(path, count)
    return digest.digest(), size


@dataclass(frozen=True, slots=True)
class _Writer:
    """The state of one run; `names` lead from the tree's path to the current entry."""

    sink: Sink
    names: list[bytes]

    def node(self, parent: int, name: bytes) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFREG:
                self._file(parent, name)
            case stat.S_IFLNK:
                target = grammar.string(os.readlink(name, dir_fd=parent))
                self.sink(grammar.OPEN + grammar.SYMLINK + target + grammar.CLOSE)
            case stat.S_IFDIR:
                self._directory(parent, name)
            case _:
                raise self._refusal("is neither a file, a directory nor a symlink: remove it")

    def _directory(self, parent: int, name: bytes) -> None:
        if len(self.names) > grammar.DEPTH:
            raise self._refusal(f"is nested more than {grammar.DEPTH} directories deep: move it up")
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self.sink(grammar.OPEN + grammar.DIRECTORY)
            for entry in sorted(os.fsencode(entry) for entry in os.listdir(fd)):  # noqa: PTH208
                self.sink(grammar.ENTRY + grammar.string(entry) + grammar.NODE)
                self.names.append(entry)
                self.node(fd, entry)
                self.names.pop()
                self.sink(grammar.CLOSE)
            self.sink(grammar.CLOSE)
        finally:
            os.close(fd)

    def _file(self, parent: int, name: bytes) -> None:
        """Write a file, in the size that it has when it is opened."""
        fd = os.open(name, _FILE, dir_fd=parent)
        try:
            status = os.fstat(fd)
            size = left = status.st_size
            kind = grammar.EXECUTABLE if status.st_mode & stat.S_IXUSR else grammar.REGULAR
            self.sink(grammar.OPEN + kind + size.to_bytes(8, "little"))
            while left:
                piece = os.read(fd, min(left, _PIECE_BYTES))
                if not piece:
                    raise self._refusal("was truncated while it was read: let nothing write to it")
                self.sink(piece)
                scheduling.give_way()
                left -= len(piece)
            self.sink(bytes(-size % 8) + grammar.CLOSE)
        finally:
            os.close(fd)
        scheduling.give_way()

    def _refusal(self, reason: str) -> errors.ContentDamaged:
        path = os.fsdecode(b"/".join(self.names))
        return errors.ContentDamaged(f"{path!a} cannot be archived: it {reason}")
