"""Compressed archives as plain bytes: xz, zstd, gzip, bzip2, or none.

`reader_of` puts a decompressor between the download and the unpacker. Data is pulled on both sides,
never pushed, so memory holds one piece on each side and the format's own window. The window is
bounded: an archive that needs a larger one is refused before it is allocated. A compressed file may
hold several streams one after another, as parallel compressors write them. One that breaks off, or
that anything else follows, is damaged, even where every byte of the contents had come.
"""

from __future__ import annotations

import bz2
import functools
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from cri_proxy import errors
from cri_proxy.store.nar import ByteSource

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAMES: Final = ("xz", "zstd", "gzip", "bzip2", "none")
"""What a narinfo's `Compression` may say, for `reader_of`."""

XZ_MEMORY_BYTES: Final = 128 * 1024 * 1024
"""`xz -9`, the most that its tool offers, needs 65 MiB to decompress."""

ZSTD_WINDOW_LOG: Final = 27
"""Windows up to 128 MiB, as `zstd --ultra -22` uses; the levels that Nix writes need 8 MiB."""

_PIECE_BYTES: Final = 64 * 1024
_GZIP_WINDOW_BITS: Final = 16 + zlib.MAX_WBITS


def reader_of(raw: ByteSource, compression: str, *, label: str) -> ByteSource:
    """Return a source of what `raw`, compressed with `compression`, holds.

    `label` names the archive in errors. Reading raises ContentDamaged for what is not whole or
    needs too much memory, and an unknown compression does at once; errors of `raw` pass.
    """
    start: Callable[[], _Decompressor]
    padding = 0
    match compression:
        case "none":
            return raw
        case "zstd":
            limit: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
            start = functools.partial(zstd.ZstdDecompressor, options=limit)
        case "xz":
            memory = XZ_MEMORY_BYTES
            start = functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=memory)
            padding = 4
        case "bzip2":
            start = bz2.BZ2Decompressor
        case "gzip":
            start = _Gzip
        case _:
            raise errors.ContentDamaged(
                f"the archive of {label} is compressed with {compression!a}: "
                f"publish it with one of {', '.join(NAMES)}"
            )
    return _Reader(raw, start, label=label, padding=padding)


class _Decompressor(Protocol):
    """One stream being decompressed, as the standard library's lzma and bz2 have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Reader:
    """The contents of `raw`, stream by stream; zeros between them if `padding` allows that."""

    def __init__(
        self, raw: ByteSource, start: Callable[[], _Decompressor], *, label: str, padding: int
    ) -> None:
        self._raw = raw
        self._start = start
        self._label = label
        self._padding = padding
        self._stream = start()
        self._input = b""
        self._is_at_end = False

    def read(self, size: int, /) -> bytes:
        while not self._is_at_end:
            if self._stream.eof:
                self._next_stream()
                continue
            if self._stream.needs_input and not self._input:
                self._input = self._raw.read(_PIECE_BYTES)
                if not self._input:
                    raise self._damage("it breaks off")
            piece, self._input = self._input, b""
            try:
                data = self._stream.decompress(piece, size)
            except (lzma.LZMAError, zstd.ZstdError, zlib.error, OSError) as error:
                raise self._damage(str(error)) from None
            if data:
                return data
        return b""

    def _next_stream(self) -> None:
        """Pass zeros behind a stream, then begin the next one or end."""
        self._input = self._stream.unused_data or self._raw.read(_PIECE_BYTES)
        zeros = 0
        while self._padding and self._input.startswith(b"\0"):
            rest = self._input.lstrip(b"\0")
            zeros += len(self._input) - len(rest)
            self._input = rest or self._raw.read(_PIECE_BYTES)
        if zeros and zeros % self._padding:
            raise self._damage("its padding is incomplete")
        self._is_at_end = not self._input
        self._stream = self._start()

    def _damage(self, reason: str) -> errors.ContentDamaged:
        return errors.ContentDamaged(
            f"the compressed archive of {self._label} is damaged: {reason}; "
            "publish the path again, or use another cache"
        )


class _Gzip:
    """One gzip member, in the shape of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
        self._held = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail and not self._held

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._held = len(plain) == max_length
        return plain
