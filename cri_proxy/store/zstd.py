"""Zstandard archives: decompressed into the buffer of whoever reads, and followed frame by frame.

The zstandard package has a reader that takes no more memory than it is given, but does not notice a
frame that breaks off. So `_Frames` stands between it and what is compressed, and looks at the
headers of frames and blocks as they pass, which say how long everything is: when there is no more,
it knows whether that was the end. Everything else, the check sums included, is the decompressor's
business.

Source of the format: RFC 8878, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import zstandard

from cri_proxy import errors
from cri_proxy.store.nar import ByteSource

WINDOW_BYTES: Final = 128 * 1024 * 1024
"""What `zstd --ultra -22` uses; the levels that Nix writes need 8 MiB or less."""

_PIECE_BYTES: Final = 256 * 1024
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES: Final = 128 * 1024
_RLE, _RESERVED = 1, 3
_FRAME_SIZES: Final = (0, 2, 4, 8)
_DICTIONARY_SIZES: Final = (0, 1, 2, 4)


_SPARE: Final = 4
_spare: Final[list[zstandard.ZstdDecompressor]] = []
"""Decompressors that nobody uses: to make one takes as long as to decompress a small archive. They
are in use by one archive at a time."""


class Reader:
    """What the frames of `raw` hold, one after another."""

    def __init__(self, raw: ByteSource, *, label: str) -> None:
        self._label = label
        self._decompressor: zstandard.ZstdDecompressor | None = _decompressor()
        self._plain = self._decompressor.stream_reader(
            _Frames(raw, self._damage),  # type: ignore[arg-type]  # of a file, it takes read alone
            read_size=_PIECE_BYTES,
            read_across_frames=True,
            closefd=False,
        )

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: memoryview, /) -> int:
        """Put bytes into the buffer; return how many, none only at the end."""
        if self._decompressor is None:
            return 0
        try:
            size = self._plain.readinto(buffer)
        except zstandard.ZstdError as error:
            raise self._damage(str(error)) from None
        if not size and buffer:
            if len(_spare) < _SPARE:
                _spare.append(self._decompressor)
            self._decompressor = None
        return size

    def _damage(self, reason: str) -> errors.ContentDamaged:
        """Return the error that says what is wrong."""
        return errors.ContentDamaged(
            f"the compressed archive of {self._label} is damaged: {reason}; "
            "publish the path again, or use another cache"
        )


class _Frames:
    """Compressed bytes on their way to the decompressor: where frames and blocks begin and end.

    The next header is so many bytes `ahead`, `wanted` bytes long, and `take` reads it: from its
    bytes to how many follow it before the next one.
    """

    def __init__(self, raw: ByteSource, damage: Callable[[str], errors.ContentDamaged]) -> None:
        self._raw = raw
        self._damage = damage
        self._frames = 0
        self._has_checksum = False
        self._ahead = 0
        self._header = b""
        self._wanted = len(_MAGIC)
        self._take: Callable[[bytes], int] = self._magic

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; raise ContentDamaged where no more come in mid-frame."""
        piece = self._raw.read(size)
        if piece:
            self._follow(piece)
        elif self._take != self._magic or self._header or self._ahead:
            raise self._damage("it breaks off")
        elif not self._frames:
            raise self._damage("it is empty")
        return piece

    def _follow(self, piece: bytes) -> None:
        """Read the headers that end in a piece."""
        position = self._ahead
        while position < len(piece):
            part = piece[position : position + self._wanted - len(self._header)]
            position += len(part)
            self._header += part
            if len(self._header) < self._wanted:
                break
            header, self._header = self._header, b""
            position += self._take(header)
        self._ahead = position - len(piece)

    def _magic(self, header: bytes) -> int:
        self._frames += 1
        if header[0] & 0xF0 == 0x50 and header[1:] == b"\x2a\x4d\x18":
            self._wanted, self._take = 4, self._skippable
        elif header == _MAGIC:
            self._wanted, self._take = 1, self._descriptor
        else:
            raise self._damage(f"{header!r} begins no frame")
        return 0

    def _skippable(self, header: bytes) -> int:
        self._wanted, self._take = len(_MAGIC), self._magic
        return int.from_bytes(header, "little")

    def _descriptor(self, header: bytes) -> int:
        flags = header[0]
        is_single = flags >> 5 & 1
        size = _FRAME_SIZES[flags >> 6] or is_single
        self._has_checksum = bool(flags >> 2 & 1)
        self._wanted, self._take = 3, self._block
        return (1 - is_single) + _DICTIONARY_SIZES[flags & 3] + size

    def _block(self, header: bytes) -> int:
        word = int.from_bytes(header, "little")
        kind, body = word >> 1 & 3, word >> 3
        if kind == _RESERVED or body > _BLOCK_BYTES:
            raise self._damage("a block has no valid header")
        size = 1 if kind == _RLE else body
        if word & 1:
            self._wanted, self._take = len(_MAGIC), self._magic
            size += 4 if self._has_checksum else 0
        return size


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return a decompressor that nobody uses."""
    try:
        return _spare.pop()
    except IndexError:
        return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
