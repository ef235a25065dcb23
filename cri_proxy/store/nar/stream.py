"""Buffered, hashing stream over the bytes of one archive.

The reader calls `accept` and `expect` for keywords, `string` for short strings, `copy` for contents
that go to a file, and first of all `plain_entry`, which handles the usual entry in one step. The
stream requests large pieces from its source, never more than the expected size, and rejects any
length beyond it.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final, Protocol

from cri_proxy.lib import scheduling
from cri_proxy.store.nar import grammar

CHUNK_BYTES: Final = 512 * 1024
_LOOKAHEAD_BYTES: Final = 8 * 1024
"""More than the longest run of keywords with its string, so that one check covers all."""
_ZEROS: Final = bytes(8)
_SPARE: Final = 4
_spare: Final[list[bytearray]] = []
"""Free buffers: allocating one costs as much as reading a small archive into it."""


class ByteSource(Protocol):
    """A file, a decompressor or a response."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; empty only at the end."""
        ...


class Malformed(Exception):
    """A violation of the format, as the end of a sentence; the reader adds the entry."""


class Stream:
    """An archive of `size` bytes from `source`, which is left open."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self._source = source
        self._size = size
        self._unread = size
        self._hash = hashlib.sha256()
        try:
            self._buffer = _spare.pop()
        except IndexError:
            self._buffer = bytearray(_LOOKAHEAD_BYTES + CHUNK_BYTES)
        self._view = memoryview(self._buffer)
        self._position = self._end = 0  # of what is buffered; beyond are stale bytes

    def accept(self, run: bytes) -> bool:
        """Consume `run` and return True if it comes next, else return False."""
        self._fill()
        if not self._buffer.startswith(run, self._position, self._end):
            return False
        self._position += len(run)
        return True

    def expect(self, run: bytes) -> None:
        """Consume `run`, or raise Malformed with what came instead."""
        if not self.accept(run):
            raise self.unexpected()

    def unexpected(self) -> Malformed:
        """Return the error for bytes that the format does not allow here."""
        found = bytes(self._view[self._position : min(self._position + 24, self._end)])
        if len(found) < len(grammar.CLOSE):
            return Malformed(f"it continues beyond the expected {self._size} bytes")
        return Malformed(f"unexpected bytes {found!r} instead of a keyword")

    def string(self, limit: int, what: str) -> bytes:
        """Return the next string, a `what` of at most `limit` bytes."""
        length = self._length()
        if length > limit:
            raise Malformed(f"its {what} is {length} bytes long, more than {limit}")
        self._fill()
        start = self._position
        self._position = start + length
        data = bytes(self._view[start : self._position])
        self._padding(length)
        return data

    def plain_entry(self) -> tuple[bytes, int, memoryview | None] | None:
        """Consume an entry that is a completely buffered file, or the start of a directory.

        Returns its name, mode and contents; these are None for a directory, and else valid until
        the next read. Returns None and consumes nothing for anything else, malformed or not. This
        reads most entries in one step; every rule is checked on the slow path as well.
        """
        self._fill()
        buffer = self._buffer
        found = grammar.PLAIN_ENTRY.match(buffer, self._position, self._end)
        if found is None:
            return None
        length, name, padding, directory, executable, size = found.groups()
        if int.from_bytes(length, "little") != len(name) or len(padding) != -len(name) % 8:
            return None
        start = found.end()
        if directory is not None:
            self._position = start
            return name, grammar.DIRECTORY_MODE, None
        end = start + int.from_bytes(size, "little")
        close = end + (start - end) % 8
        stop = close + len(grammar.CLOSE_TWICE)
        if (
            stop > self._end
            or buffer[end:close] != _ZEROS[: close - end]
            or not buffer.startswith(grammar.CLOSE_TWICE, close)
        ):
            return None
        self._position = stop
        mode = grammar.REGULAR_MODE if executable is None else grammar.EXECUTABLE_MODE
        return name, mode, self._view[start:end]

    def copy(self, fd: int) -> None:
        """Write the contents that come next to the open file `fd`."""
        length = self._length()
        start, end = self._position, self._position + length
        if end <= self._end:
            if length:
                write_all(fd, self._view[start:end])
            self._position = end
        else:
            write_all(fd, self._view[start : self._end])
            left = end - self._end
            self._position = self._end = 0
            while left:
                size = self._read(self._view[: min(left, CHUNK_BYTES)])
                write_all(fd, self._view[:size])
                left -= size
        self._padding(length)

    def finish(self) -> bytes:
        """Return the sha256 of the archive; raise Malformed unless it and its source have ended."""
        rest = self._end - self._position + self._unread
        if rest:
            raise Malformed(f"it ends {rest} bytes short of the expected {self._size}")
        if self._source.read(1):
            raise Malformed(f"data follows the expected {self._size} bytes")
        return self._hash.digest()

    def close(self) -> None:
        """Free the buffer for another stream; nothing may be read afterwards."""
        if len(_spare) < _SPARE:
            _spare.append(self._buffer)
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)

    def _length(self) -> int:
        """Return the length that comes next; raise Malformed if fewer bytes are left."""
        self._fill()
        start = self._position
        self._position = start + 8
        length = int.from_bytes(self._view[start : self._position], "little")
        left = self._end - self._position + self._unread
        if length > left:
            raise Malformed(f"a length of {length} exceeds the expected {self._size} bytes")
        return length

    def _padding(self, length: int) -> None:
        size = -length % 8
        if not size:
            return
        self._fill()
        start = self._position
        self._position = start + size
        if self._view[start : min(self._position, self._end)] != _ZEROS[:size]:
            raise Malformed("padding is missing or not zero")

    def _fill(self) -> None:
        """Buffer enough for any run with its string, or all that is left."""
        have = self._end - self._position
        if have >= _LOOKAHEAD_BYTES or not self._unread:
            return
        self._view[:have] = self._view[self._position : self._end]
        self._position, self._end = 0, have
        while self._end < _LOOKAHEAD_BYTES and self._unread:
            size = min(self._unread, CHUNK_BYTES)
            self._end += self._read(self._view[self._end : self._end + size])

    def _read(self, place: memoryview) -> int:
        """Read at least one byte from the source into `place`, hash and count it."""
        piece = self._source.read(len(place))
        size = len(piece)
        if not size:
            raise Malformed(
                f"it is truncated after {self._size - self._unread} of {self._size} bytes"
            )
        scheduling.give_way()
        self._hash.update(piece)
        scheduling.give_way()
        place[:size] = piece
        self._unread -= size
        return size


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` to `fd`: a single write(2) may write less (signal, full disk)."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
