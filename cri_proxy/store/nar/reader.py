"""The reader of archives: bytes in, a proved file tree on disk out.

One pass: pieces of the archive come from the source, are counted and hashed by `stream`, and go to
files as they come. Nothing is remembered but the directories that are open, so neither a large file
nor a large tree costs memory.

The archive may come from anyone until its hash is known, which is at the very end. Therefore:

- every file is created by name in a directory that this reader has made and holds open
  (`dir_fd`, `O_EXCL`, `O_NOFOLLOW`), so no byte is written outside the target, whatever names,
  symlinks or other processes there are;
- names are single components in strictly rising order of their bytes, so none comes twice;
- no length is believed beyond the promised size, and depth is bounded;
- modes, owners and times are not in the format: everything gets those of Nix's store, and the
  owner is whoever runs this.

On any error the target stays behind in part: its caller removes it.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling
from cri_proxy.store.nar import grammar
from cri_proxy.store.nar.stream import (
    ByteSource,
    Malformed,
    Stream,
    write_all,
)

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CLOSE_TWICE: Final = grammar.CLOSE * 2


@dataclass(slots=True)
class Unpacked:
    """What an archive held; `bytes` counts file contents alone."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0


def unpack(
    source: ByteSource, target: Path, *, nar_size: int, nar_hash: bytes, label: str
) -> Unpacked:
    """Write the tree that `source` archives to `target`, which must not exist yet.

    `nar_size` and `nar_hash` (32 bytes, sha256) are what the archive was promised to be; `label`
    names it in errors, such as "/nix/store/…-x from https://cache". Raises ContentDamaged unless
    the archive is well-formed, ends with its source and is what was promised; an OSError of the
    disk (no space, no quota) passes as it is.
    """
    stream = Stream(source, nar_size)
    unpacker = _Unpacker(stream)
    try:
        unpacker.run(target)
        found = stream.finish()
    except Malformed as malformed:
        raise errors.ContentDamaged(
            f"the archive of {label} is damaged{unpacker.place}: {malformed}; "
            "publish the path again, or use another cache"
        ) from None
    finally:
        stream.close()
    if found != nar_hash:
        raise errors.ContentDamaged(
            f"the archive of {label} has the hash sha256:{found.hex()}, not the promised "
            f"sha256:{nar_hash.hex()}; publish the path again, or use another cache"
        )
    return unpacker.unpacked


@dataclass(slots=True)
class _Directory:
    """A directory that is being filled; `last` is the name of its latest entry."""

    name: bytes
    fd: int
    last: bytes = b""


@dataclass(slots=True)
class _Unpacker:
    """One unpacking: the stream, the directories open on the way to the current entry, counts."""

    stream: Stream
    unpacked: Unpacked = field(default_factory=Unpacked)
    open: list[_Directory] = field(default_factory=list)
    granted: set[int] = field(default_factory=set)
    times: tuple[int, int] = field(
        default_factory=lambda: (time.time_ns(), grammar.MTIME_SECONDS * 1_000_000_000)
    )

    def run(self, target: Path) -> None:
        """Read one archive into `target`."""
        with ExitStack() as stack:
            stack.callback(self._close)
            parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, parent)
            self.stream.expect(grammar.MAGIC)
            self._node(parent, os.fsencode(target.name), grammar.CLOSE)
            while self.open:
                self._entry(self.open[-1])

    @property
    def place(self) -> str:
        """Where the reader stands, as part of a sentence: nothing at the root."""
        names = [directory.name for directory in self.open[1:]]
        if self.open and self.open[-1].last:
            names.append(self.open[-1].last)
        return f" at entry {os.fsdecode(b'/'.join(names))!a}" if names else ""

    def _entry(self, directory: _Directory) -> None:
        """Read the next entry of `directory`, or its end."""
        plain = self.stream.plain_entry()
        if plain is not None:
            name, mode, contents = plain
            self._follow(directory, name)
            if contents is None:
                self._directory(directory.fd, name)
            else:
                self._file(directory.fd, name, mode, contents)
            return
        if not self.stream.accept(grammar.ENTRY):
            self.stream.expect(grammar.CLOSE)
            self._seal(directory)
            return
        name = self.stream.string(grammar.NAME_BYTES, "name")
        self._follow(directory, name)
        self.stream.expect(grammar.NODE)
        self._node(directory.fd, name, _CLOSE_TWICE)

    def _follow(self, directory: _Directory, name: bytes) -> None:
        """Make sure that `name` may be the next one in `directory`."""
        if name <= directory.last:
            raise Malformed(f"the name {_shown(name)} does not follow in order")
        if name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Malformed(f"{_shown(name)} is not the name of a file")
        directory.last = name

    def _node(self, parent: int, name: bytes, end: bytes) -> None:
        """Read what `name` in `parent` is, through `end`; a directory stays open to be filled."""
        stream = self.stream
        stream.expect(grammar.OPEN)
        if stream.accept(grammar.REGULAR):
            self._file(parent, name, grammar.REGULAR_MODE)
        elif stream.accept(grammar.EXECUTABLE):
            self._file(parent, name, grammar.EXECUTABLE_MODE)
        elif stream.accept(grammar.SYMLINK):
            self._symlink(parent, name)
        elif stream.accept(grammar.DIRECTORY):
            self._directory(parent, name)
            return
        else:
            raise stream.unexpected()
        stream.expect(end)

    def _file(
        self, parent: int, name: bytes, mode: int, contents: memoryview | None = None
    ) -> None:
        """Write `contents` to a file, or what comes next in the archive."""
        fd = os.open(name, _CREATE, mode, dir_fd=parent)
        try:
            if contents is None:
                self.unpacked.bytes += self.stream.copy(fd)
            elif contents:
                write_all(fd, contents)
                self.unpacked.bytes += len(contents)
            if mode not in self.granted:
                self._chmod(fd, mode)
            os.utime(fd, ns=self.times)
        finally:
            os.close(fd)
        scheduling.give_way()
        self.unpacked.files += 1

    def _chmod(self, fd: int, mode: int) -> None:
        """Give a file its mode, whatever the umask and the parent's default ACL made of it.

        Both are the same for the whole tree: a mode that was granted once need not be looked after.
        """
        if stat.S_IMODE(os.fstat(fd).st_mode) == mode:
            self.granted.add(mode)
        else:
            os.fchmod(fd, mode)

    def _symlink(self, parent: int, name: bytes) -> None:
        """Read the target of a symlink and create it."""
        target = self.stream.string(grammar.TARGET_BYTES, "symlink target")
        if not target or b"\0" in target:
            raise Malformed(f"{_shown(target)} is not the target of a symlink")
        os.symlink(target, name, dir_fd=parent)
        os.utime(name, ns=self.times, dir_fd=parent, follow_symlinks=False)
        self.unpacked.symlinks += 1

    def _directory(self, parent: int, name: bytes) -> None:
        """Create a directory and hold it open for its entries."""
        if len(self.open) == grammar.DEPTH:
            raise Malformed(f"directories lie more than {grammar.DEPTH} deep")
        os.mkdir(name, 0o700, dir_fd=parent)
        self.open.append(_Directory(name, os.open(name, _DIRECTORY, dir_fd=parent)))
        self.unpacked.directories += 1

    def _seal(self, directory: _Directory) -> None:
        """Give a complete directory its final mode and time, and leave it."""
        os.fchmod(directory.fd, grammar.DIRECTORY_MODE)
        os.utime(directory.fd, ns=self.times)
        self.open.pop()
        os.close(directory.fd)
        if self.open:
            self.stream.expect(grammar.CLOSE)

    def _close(self) -> None:
        """Close what an error left open; the names stay, for the error says where it was."""
        for directory in self.open:
            os.close(directory.fd)


def _shown(name: bytes) -> str:
    """Return a name for an error: ASCII, not too long."""
    return ascii(os.fsdecode(name[:80]))
