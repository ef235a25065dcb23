"""Zstandard archives, block by block.

The zstandard package has a reader that bounds memory but does not notice a frame that breaks off,
and a decompressor that notices but gives all that its input holds at once: 64 KiB of it may hold
2 GiB. A block holds at most 128 KiB. So this reader finds the blocks of a frame, which their
3-byte headers make easy, and hands as many of them to the decompressor as may be in memory at once;
everything else, the check sums included, is the decompressor's business.

Source of the format: RFC 8878, section 3.1.
"""

from __future__ import annotations

from typing import Final

import zstandard

from cri_proxy import errors
from cri_proxy.store.nar import Source

WINDOW_BYTES: Final = 128 * 1024 * 1024
"""What `zstd --ultra -22` uses; the levels that Nix writes need 8 MiB or less."""

_PIECE_BYTES: Final = 256 * 1024
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES: Final = 128 * 1024
_WRITTEN_BYTES: Final = 4 * _BLOCK_BYTES
_RLE, _RESERVED = 1, 3
_FRAME_SIZES: Final = (0, 2, 4, 8)
_DICTIONARY_SIZES: Final = (0, 1, 2, 4)


_SPARE: Final = 4
_spare: Final[list[zstandard.ZstdDecompressor]] = []
"""Decompressors that nobody uses: to make one takes as long as to decompress a small archive. They
are in use by one archive at a time."""


class Reader:
    """What the frames of `raw` hold, one after another."""

    def __init__(self, raw: Source, *, label: str) -> None:
        self._raw = raw
        self._label = label
        self._decompressor: zstandard.ZstdDecompressor | None = None
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
                self._plain = self._blocks(self._frame, size)
            elif not self._next_frame():
                return b""
        if len(self._plain) <= size:
            data, self._plain = self._plain, b""
        else:
            data, self._plain = self._plain[:size], self._plain[size:]
        return data

    def _next_frame(self) -> bool:
        """Read the header of the next frame, if there is one; skip a skippable one."""
        if not self._more():
            if not self._frames:
                raise self._damage("it is empty")
            if self._decompressor is not None and len(_spare) < _SPARE:
                _spare.append(self._decompressor)
            self._decompressor = None
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
        if self._decompressor is None:
            self._decompressor = _decompressor()
        self._frame = self._decompressor.decompressobj(write_size=_WRITTEN_BYTES)
        self._decompress(self._frame, magic + descriptor + rest)
        return True

    def _blocks(self, frame: zstandard.ZstdDecompressionObj, size: int) -> bytes:
        """Return what the next blocks of `frame` hold: one, or more if they have come and fit.

        With its last block the frame ends.
        """
        length, blocks, is_last = 0, 0, False
        while not is_last and (not blocks or (blocks + 1) * _BLOCK_BYTES <= size):
            if not self._have(length + 3, must=not blocks):
                break
            start = self._position + length
            word = int.from_bytes(self._input[start : start + 3], "little")
            kind, body = word >> 1 & 3, word >> 3
            if kind == _RESERVED or body > _BLOCK_BYTES:
                raise self._damage("a block has no valid header")
            ends = bool(word & 1)
            whole = 3 + (1 if kind == _RLE else body) + (4 if ends and self._has_checksum else 0)
            if not self._have(length + whole, must=not blocks):
                break
            length, blocks, is_last = length + whole, blocks + 1, ends
        plain = self._decompress(frame, self._take(length))
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
        """Return the next `size` bytes, some blocks at most."""
        self._have(size, must=True)
        start = self._position
        self._position += size
        return self._input[start : self._position]

    def _have(self, size: int, *, must: bool) -> bool:
        """Whether the next `size` bytes have come; they are waited for if they `must`."""
        have = len(self._input) - self._position
        if have < size and must:
            pieces = [self._input[self._position :]]
            while have < size:
                pieces.append(self._raw.read(_PIECE_BYTES))
                if not pieces[-1]:
                    raise self._damage("it breaks off")
                have += len(pieces[-1])
            self._input, self._position = b"".join(pieces), 0
        return have >= size

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


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return a decompressor that nobody uses."""
    try:
        return _spare.pop()
    except IndexError:
        return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
