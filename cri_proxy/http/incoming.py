"""An incremental parser of one response: bytes go in, its head and the bytes of its body come out.

Bodies end after a length, with a last chunk, or with their connection; caches use all three.
Anything that is not HTTP, ends early, or has endless headers or trailers raises `Broken`. Nothing
is received here: see `connections`.

Source of the format: RFC 9112, 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cri_proxy.http.failures import Broken
from cri_proxy.http.messages import head_of

HEAD_BYTES: Final = 64 * 1024
"""Longest head, longest line between chunks, and all interim responses and trailers together."""

_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)


@dataclass(slots=True, eq=False)
class Incoming:
    """One response as it arrives.

    `status` is 0 until the head is complete. `is_over` says that the body has ended, and `is_kept`
    that another request may follow on the same connection.
    """

    status: int = 0
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    is_over: bool = False
    is_kept: bool = False
    _beside: int = 0  # bytes of interim responses and trailers
    _held: bytes = b""  # an incomplete head, or an incomplete line between chunks
    _left: int | None = None  # of the body or a chunk; None: until the connection ends
    _framing: Callable[[bytes], None] | None = None  # of chunks: parses the next line

    def take(self, data: bytes) -> bytes:
        """Return the bytes of the body in `data`, which arrived next; raise Broken."""
        if not self.status:
            rest = self._take_head(self._held + data if self._held else data)
            if rest is None:
                return b""
            data = rest
        if self._framing is not None:
            return self._take_chunks(data)
        left = self._left
        if left is None:
            return data
        if len(data) >= left:
            self._end(len(data) - left)
            return data if len(data) == left else data[:left]
        self._left = left - len(data)
        return data

    def end(self) -> None:
        """Accept the end of the connection; raise Broken unless the body ends in this way."""
        if not self.status:
            where = "in the head of an answer" if self._held else "without an answer"
            raise Broken(f"closed the connection {where}")
        if self._framing is not None:
            raise Broken("closed the connection before the last chunk")
        if self._left is not None and not self.is_over:
            raise Broken(f"closed the connection {self._left} bytes before the end")
        self.is_over = True

    def _take_head(self, data: bytes) -> bytes | None:
        """Parse the head and return what follows it; None while it is incomplete."""
        while (end := data.find(b"\r\n\r\n")) >= 0:
            version, status, self.reason, self.headers = head_of(data[:end])
            data = data[end + 4 :]
            if status >= 200:  # else it is an interim response; the final one follows
                self.status, self._held = status, b""
                self._choose_framing(version)
                return data
            self._pass(end)
        if len(data) > HEAD_BYTES:
            raise Broken("answers with a head without an end")
        self._held = data
        return None

    def _choose_framing(self, version: bytes) -> None:
        """Choose from the head how the end of the body is found."""
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        options = self.headers.get("connection", "").lower()
        self.is_kept = version == b"HTTP/1.1" and "close" not in options
        if self.status in {204, 304}:
            self._left = 0
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise Broken(f"uses the transfer encoding {coding[:40]!a}")
            self._left, self._framing = 0, self._take_size
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise Broken(f"promises a length of {length[:40]!a}")
            self._left = int(length)
        else:
            self.is_kept = False

    def _take_chunks(self, data: bytes) -> bytes:
        """Return the bytes of the body in these chunks, or parts of them."""
        data, self._held = self._held + data, b""
        pieces, position = [], 0
        while position < len(data) and not self.is_over:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                self._held = data[position:]
                if len(self._held) > HEAD_BYTES:
                    raise Broken("sends no end of the line between two chunks")
                break
            line, position = data[position:end], end + 2
            assert self._framing is not None
            self._framing(line)
        if self.is_over:
            self._end(len(data) - position)
        return b"".join(pieces)

    def _take_size(self, line: bytes) -> None:
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise Broken("sends a chunk without a size")
        self._left = int(found[1], 16)
        self._framing = self._take_end if self._left else self._take_trailer

    def _take_end(self, line: bytes) -> None:
        """Check the line that ends a chunk, which is empty."""
        if line:
            raise Broken("sends a chunk of another size than it says")
        self._framing = self._take_size

    def _take_trailer(self, line: bytes) -> None:
        """Skip a line after the last chunk; an empty one ends the body."""
        self._pass(len(line))
        self.is_over = not line

    def _pass(self, size: int) -> None:
        """Count bytes that are skipped; raise Broken if there are too many."""
        self._beside += size
        if self._beside > HEAD_BYTES:
            raise Broken("sends interim answers or trailers without an end")

    def _end(self, rest: int) -> None:
        """Record the end of the body; `rest` bytes follow it that no request asked for."""
        self.is_over = True
        self._left, self._framing = 0, None
        self.is_kept = self.is_kept and not rest
