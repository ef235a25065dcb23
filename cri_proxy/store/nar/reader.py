"""NAR reader: unpacks an archive into a verified file tree on disk.

It makes one pass: `stream` reads, counts and hashes pieces of the archive, which go to files as
they come. Only the open directories are kept in memory, whatever the size of files and tree.

The archive is untrusted until its hash is known, at the very end. Therefore:

- every file is created by name in a directory that this reader has created and holds open
  (`dir_fd`, `O_EXCL`, `O_NOFOLLOW`), so nothing is written outside the target, whatever names,
  symlinks or other processes do;
- names are single components in strictly ascending byte order, so none occurs twice;
- no length may exceed the expected size, and the depth is limited;
- the format has no modes, owners or times: everything gets those of a Nix store, and the owner of
  this process.

On an error a partial target remains: the caller removes it.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import scheduling
from cri_proxy.store.nar import grammar
from cri_proxy.store.nar.stream import ByteSource, Malformed, Stream, write_all

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(source: ByteSource, target: Path, *, nar_size: int, nar_hash: bytes, label: str) -> None:
    """Unpack the archive in `source` to `target`, which must not exist yet.

    `nar_size` and `nar_hash` (32 bytes, sha256) are expected of the archive; `label` names it in
    errors, such as "/nix/store/…-x from https://cache". Raises ContentDamaged unless the archive
    is well-formed, ends with its source and matches; OSError of the disk (no space, no quota).
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
            f"the archive of {label} has the hash sha256:{found.hex()}, expected "
            f"sha256:{nar_hash.hex()}; publish the path again, or use another cache"
        )


@dataclass(slots=True)
class _Directory:
    """A directory that is being unpacked; `last` is the name of its latest entry."""

    name: bytes
    fd: int
    last: bytes = b""


@dataclass(slots=True)
class _Unpacker:
    """The state of one run: the stream, and the directories open down to the current entry."""

    stream: Stream
    open: list[_Directory] = field(default_factory=list)
    granted: set[int] = field(default_factory=set)
    times: tuple[int, int] = field(
        default_factory=lambda: (time.time_ns(), grammar.MTIME_SECONDS * 1_000_000_000)
    )

    def run(self, target: Path) -> None:
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.stream.expect(grammar.MAGIC)
            self._node(parent, os.fsencode(target.name), grammar.CLOSE)
            while self.open:
                self._entry(self.open[-1])
        finally:
            os.close(parent)
            for directory in self.open:  # after an error; the names stay for `place`
                os.close(directory.fd)

    @property
    def place(self) -> str:
        """The current entry, as part of a sentence; empty at the root."""
        names = [directory.name for directory in self.open[1:]]
        if self.open and self.open[-1].last:
            names.append(self.open[-1].last)
        return f" at entry {os.fsdecode(b'/'.join(names))!a}" if names else ""

    def _entry(self, directory: _Directory) -> None:
        plain = self.stream.plain_entry()
        if plain is not None:
            name, mode, contents = plain
            self._follow(directory, name)
            if contents is None:
                self._directory(directory.fd, name)
            else:
                self._file(directory.fd, name, mode, contents)
        elif self.stream.accept(grammar.ENTRY):
            name = self.stream.string(grammar.NAME_BYTES, "name")
            self._follow(directory, name)
            self.stream.expect(grammar.NODE)
            self._node(directory.fd, name, grammar.CLOSE_TWICE)
        else:
            self.stream.expect(grammar.CLOSE)
            self._seal(directory)

    def _follow(self, directory: _Directory, name: bytes) -> None:
        if name <= directory.last:
            raise Malformed(f"the entry name {_shown(name)} is out of order")
        if name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Malformed(f"{_shown(name)} is not a valid entry name")
        directory.last = name

    def _node(self, parent: int, name: bytes, end: bytes) -> None:
        """Read the node of `name` in `parent`, through `end`; a directory stays open."""
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
        """Create a file of `contents`, or of the contents that come next in the archive."""
        fd = os.open(name, _CREATE, mode, dir_fd=parent)
        try:
            if contents is None:
                self.stream.copy(fd)
            elif contents:
                write_all(fd, contents)
            if mode not in self.granted:
                # The umask or the parent's default ACL may have changed it. Both are the same for
                # the whole tree, so a mode that came out right once always does.
                if stat.S_IMODE(os.fstat(fd).st_mode) == mode:
                    self.granted.add(mode)
                else:
                    os.fchmod(fd, mode)
            os.utime(fd, ns=self.times)
        finally:
            os.close(fd)
        scheduling.give_way()

    def _symlink(self, parent: int, name: bytes) -> None:
        target = self.stream.string(grammar.TARGET_BYTES, "symlink target")
        if not target or b"\0" in target:
            raise Malformed(f"{_shown(target)} is not a valid symlink target")
        os.symlink(target, name, dir_fd=parent)
        os.utime(name, ns=self.times, dir_fd=parent, follow_symlinks=False)

    def _directory(self, parent: int, name: bytes) -> None:
        if len(self.open) == grammar.DEPTH:
            raise Malformed(f"directories are nested more than {grammar.DEPTH} deep")
        os.mkdir(name, 0o700, dir_fd=parent)
        self.open.append(_Directory(name, os.open(name, _DIRECTORY, dir_fd=parent)))

    def _seal(self, directory: _Directory) -> None:
        os.fchmod(directory.fd, grammar.DIRECTORY_MODE)
        os.utime(directory.fd, ns=self.times)
        self.open.pop()
        os.close(directory.fd)
        if self.open:
            self.stream.expect(grammar.CLOSE)


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(name[:80]))
