"""Zstandard archives, block by block.

The zstandard package has a reader that bounds memory but does not notice a frame that breaks off,
and a decompressor that notices but gives all that its input holds at once: 64 KiB of it may hold
2 GiB. A block holds at most 128 KiB. So this reader finds the blocks of a frame, which their
3-byte headers make easy, and hands them to the decompressor one at a time; everything else, the
check sums included, is the decompressor's business.

Source of the format: RFC 8878, section 3.1.
"""

from __future__ import annotations

from typing import Final

import zstandard

from cri_proxy import errors
from cri_proxy.store.nar import Source

WINDOW_BYTES: Final = 128 * 1024 * 1024
"""What `zstd --ultra -22` uses; the levels that Nix writes need 8 MiB or less."""

_PIECE_BYTES: Final = 64 * 1024
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES: Final = 128 * 1024
_RLE, _RESERVED = 1, 3
_FRAME_SIZES: Final = (0, 2, 4, 8)
_DICTIONARY_SIZES: Final = (0, 1, 2, 4)


class Reader:
    """What the frames of `raw` hold, one after another."""

    def __init__(self, raw: Source, *, label: str) -> None:
        self._raw = raw
        self._label = label
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._has_checksum = False
        self._input = b""
        self._position = 0
        self._frames = 0
        self._plain = b""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        while not self._plain:
            if self._frame is not None:
                self._plain = self._block(self._frame)
            elif not self._next_frame():
                return b""
        data, self._plain = self._plain[:size], self._plain[size:]
        return data

    def _next_frame(self) -> bool:
        """Read the header of the next frame, if there is one; skip a skippable one."""
        if not self._more():
            if not self._frames:
                raise self._damage("it is empty")
            return False
        self._frames += 1
        magic = self._take(4)
        if magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18":
            self._skip(int.from_bytes(self._take(4), "little"))
            return True
        if magic != _MAGIC:
            raise self._damage(f"{magic!r} begins no frame")
        descriptor = self._take(1)
        flags = descriptor[0]
        is_single = flags >> 5 & 1
        size = _FRAME_SIZES[flags >> 6] or is_single
        rest = self._take((1 - is_single) + _DICTIONARY_SIZES[flags & 3] + size)
        self._has_checksum = bool(flags >> 2 & 1)
        self._frame = self._decompressor.decompressobj()
        self._decompress(self._frame, magic + descriptor + rest)
        return True

    def _block(self, frame: zstandard.ZstdDecompressionObj) -> bytes:
        """Return what the next block of `frame` holds; with its last one, end the frame."""
        header = self._take(3)
        word = int.from_bytes(header, "little")
        is_last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if kind == _RESERVED or size > _BLOCK_BYTES:
            raise self._damage("a block has no valid header")
        body = self._take(
            (1 if kind == _RLE else size) + (4 if is_last and self._has_checksum else 0)
        )
        plain = self._decompress(frame, header + body)
        if is_last:
            if not frame.eof:
                raise self._damage("a frame does not end with its last block")
            self._frame = None
        return plain

    def _decompress(self, frame: zstandard.ZstdDecompressionObj, data: bytes) -> bytes:
        """Return what `data` of `frame` holds."""
        try:
            return frame.decompress(data)
        except zstandard.ZstdError as error:
            raise self._damage(str(error)) from None

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes, at most a block."""
        if len(self._input) - self._position < size:
            pieces = [self._input[self._position :]]
            while sum(map(len, pieces)) < size:
                pieces.append(self._raw.read(_PIECE_BYTES))
                if not pieces[-1]:
                    raise self._damage("it breaks off")
            self._input, self._position = b"".join(pieces), 0
        start = self._position
        self._position += size
        return self._input[start : self._position]

    def _skip(self, size: int) -> None:
        """Pass `size` bytes, any number."""
        while size:
            size -= len(self._take(min(size, _PIECE_BYTES)))

    def _more(self) -> bool:
        """Whether there is another byte."""
        if self._position == len(self._input):
            self._input, self._position = self._raw.read(_PIECE_BYTES), 0
        return bool(self._input)

    def _damage(self, reason: str) -> errors.ContentDamaged:
        """Return the error that says what is wrong."""
        return errors.ContentDamaged(
            f"the compressed archive of {self._label} is damaged: {reason}; "
            "publish the path again, or use another cache"
        )
