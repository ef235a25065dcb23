"""The bytes of one archive in order: buffered, counted against what was promised, hashed.

Whoever reads the archive asks `accept` and `expect` for keywords, `string` for short strings,
`copy` for contents that go to a file, and first of all `small_file`, the usual case in one step.
The stream asks its source for large pieces, never for more than the promised size, and believes no
length that goes beyond it. At most two pieces are in memory, whatever the archive says.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final, Protocol

from cri_proxy.lib import scheduling
from cri_proxy.store.nar import grammar

CHUNK_BYTES: Final = 512 * 1024
_LOOKAHEAD_BYTES: Final = 8 * 1024
"""More than the longest run of keywords with its string, so that one check serves them all."""
_ZEROS: Final = bytes(8)
_CLOSE_TWICE: Final = grammar.CLOSE * 2


class Source(Protocol):
    """Where bytes come from: a file, a decompressor, a response."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none only at the end."""
        ...


class Malformed(Exception):
    """What is wrong with the archive, as the end of a sentence; the reader says at which entry."""


class Stream:
    """`size` bytes of an archive from `source`, which is left open."""

    __slots__ = ("_buffer", "_hash", "_position", "_size", "_source", "_unread", "_view")

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._unread = size
        self._hash = hashlib.sha256()
        self._position = 0
        self._show(b"")

    def accept(self, run: bytes) -> bool:
        """Whether the next bytes are `run`; if so they are passed, else nothing happens."""
        if len(self._buffer) - self._position < _LOOKAHEAD_BYTES:
            self._fill()
        if not self._buffer.startswith(run, self._position):
            return False
        self._position += len(run)
        return True

    def expect(self, run: bytes) -> None:
        """Pass `run`, which must come next; raise Malformed with what came instead."""
        if not self.accept(run):
            raise self.unexpected()

    def unexpected(self) -> Malformed:
        """Return the error for bytes that no rule of the format allows here."""
        found = self._buffer[self._position : self._position + 24]
        if len(found) < len(grammar.CLOSE):
            return Malformed(f"it goes on beyond its promised {self._size} bytes")
        return Malformed(f"the bytes {found!r} stand where the format has no such keyword")

    def string(self, limit: int, what: str) -> bytes:
        """Return the next string, which is a `what` of at most `limit` bytes."""
        length = self._length()
        if length > limit:
            raise Malformed(f"its {what} is {length} bytes long, more than {limit}")
        if len(self._buffer) - self._position < _LOOKAHEAD_BYTES:
            self._fill()
        start = self._position
        data = self._buffer[start : start + length]
        self._position = start + length
        self._padding(length)
        return data

    def small_file(self) -> tuple[bytes, bool, memoryview] | None:
        """Pass an entry that is a file and all in the buffer: its name, if executable, contents.

        None, and nothing happens, for whatever else comes next, malformed or not: this is the way
        to read most entries in one step, and no rule is checked here alone.
        """
        if len(self._buffer) - self._position < _LOOKAHEAD_BYTES:
            self._fill()
        buffer = self._buffer
        found = grammar.SMALL_FILE.match(buffer, self._position)
        if found is None:
            return None
        length, name, padding, executable, size = found.groups()
        start = found.end()
        end = start + int.from_bytes(size, "little")
        close = end + (start - end) % 8
        if (
            int.from_bytes(length, "little") != len(name)
            or len(padding) != -len(name) % 8
            or buffer[end:close] != _ZEROS[: close - end]
            or not buffer.startswith(_CLOSE_TWICE, close)
        ):
            return None
        self._position = close + len(_CLOSE_TWICE)
        return name, executable is not None, self._view[start:end]

    def copy(self, fd: int) -> int:
        """Write the contents that come next to the open file `fd`; return their size."""
        length = self._length()
        start, end = self._position, self._position + length
        if end <= len(self._buffer):
            if length:
                write_all(fd, self._view[start:end])
            self._position = end
        else:
            write_all(fd, self._view[start:])
            left = end - len(self._buffer)
            self._show(b"")
            while left:
                piece = self._read(min(left, CHUNK_BYTES))
                write_all(fd, piece)
                left -= len(piece)
        self._padding(length)
        return length

    def finish(self) -> bytes:
        """Return the sha256 of the archive, which must be at its end, and its source as well."""
        rest = len(self._buffer) - self._position + self._unread
        if rest:
            raise Malformed(f"it ends {rest} bytes before its promised {self._size}")
        if self._source.read(1):
            raise Malformed(f"bytes follow its promised {self._size}")
        return self._hash.digest()

    def _length(self) -> int:
        """Return the length that comes next, if so many bytes are left at all."""
        if len(self._buffer) - self._position < _LOOKAHEAD_BYTES:
            self._fill()
        start = self._position
        self._position = start + 8
        length = int.from_bytes(self._buffer[start : start + 8], "little")
        left = len(self._buffer) - self._position + self._unread
        if length > left:
            raise Malformed(f"a length of {length} goes on beyond its promised {self._size} bytes")
        return length

    def _padding(self, length: int) -> None:
        """Pass the zeros behind a string of `length` bytes."""
        size = -length % 8
        if not size:
            return
        if len(self._buffer) - self._position < size:
            self._fill()
        start = self._position
        self._position = start + size
        if self._buffer[start : start + size] != _ZEROS[:size]:
            raise Malformed("padding is missing or not zero")

    def _fill(self) -> None:
        """Buffer enough for any run with its string, or all there is."""
        if not self._unread:
            return
        pieces = [self._buffer[self._position :]]
        have = len(pieces[0])
        while have < _LOOKAHEAD_BYTES and self._unread:
            pieces.append(self._read(min(self._unread, CHUNK_BYTES)))
            have += len(pieces[-1])
        self._show(b"".join(pieces))

    def _read(self, size: int) -> bytes:
        """Return at most `size` bytes of the source, at least one, hashed and counted."""
        piece = self._source.read(size)
        if not piece:
            raise Malformed(
                f"it breaks off after {self._size - self._unread} of {self._size} bytes"
            )
        scheduling.give_way()
        self._hash.update(piece)
        scheduling.give_way()
        self._unread -= len(piece)
        return piece

    def _show(self, buffer: bytes) -> None:
        """Make `buffer` what is looked at, from its start."""
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._position = 0


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` to `fd`: one write(2) may take less, for a signal or a full disk."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
