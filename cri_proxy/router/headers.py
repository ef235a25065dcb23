"""Header blocks: which of them may be forwarded raw, and which name a method that we look for.

HPACK's dynamic table is what forbids to forward a block to whom one likes: a block may refer to
what an earlier one, gone elsewhere, has left in the receiver's table. So every side is told a table
size of zero, kubelet with its first call (see `terms`). A sender that heeds this says so: its next
block begins with a size update to zero, the single byte 0x20. From that byte on its blocks stand
alone and pass as raw bytes. Before it, and again should the sender ever announce another size, its
`Sender` decodes them with state, and they go on re-encoded without. What a sender does is thus
learnt from its own blocks, not from the time of an acknowledgement, and a sender that ignores the
zero is served too, only slower.

Receivers keep the size that they had announced until a block tells them otherwise, and a sender
tells it once, to whichever side that block went. The `Receiver` of each side sees to it that its
first block carries the update as well: no table is left in which anything could be planted.

A `Needles` finds calls without decoding: a literal string has two encodings, plain and Huffman,
both known in advance, so a block that contains neither cannot name the method. A hit is only a
suspicion (the value of another header may be the same), confirmed by decoding that one block.

The format is RFC 7541.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from cri_proxy.router import frames

BLOCK_BYTES: Final = 2 << 20
"""A block, with the headers of the frames that carry it, may have that many bytes."""
READ_BYTES: Final = 96 << 10
"""A block that has to be decoded may have, and decode to, that many: decoding holds the loop."""

SIZE_UPDATE_MASK: Final = 0xE0
SIZE_UPDATE: Final = 0x20
"""`first byte & SIZE_UPDATE_MASK == SIZE_UPDATE`: the block begins with a table size update."""

_PATH: Final = frozenset({0x04, 0x05, 0x14, 0x15, 0x44, 0x45})
"""How a field named `:path` with a literal value may begin: section 6.2 and appendix A."""
_NAMED: Final = frozenset({0x00, 0x10, 0x40})
"""How one begins that brings its name with it, as gRPC's C core has all of them."""
_BEHIND: Final = frozenset({0x0F, 0x1F, 0x7F})
"""How one begins whose name stands far behind in the table: after `:path`."""
_ZERO_SIZE: Final = bytes([SIZE_UPDATE])

Headers = Sequence[tuple[bytes, bytes]]


class HeaderSender:
    """Who sends header blocks: with a table, until it has said that it keeps none."""

    __slots__ = ("_decoder", "is_bound", "is_stateless")

    def __init__(self) -> None:
        self.is_stateless = False
        self.is_bound = False
        """It has acknowledged the size of zero, and may announce no other any more."""
        self._decoder: hpack.Decoder | None = _decoder()

    def is_to_be_read(self, fragment: bytes) -> bool:
        """Return whether the block must go through `read`, or may pass as it is."""
        return not self.is_stateless or _is_size_update(fragment[:1])

    def read(self, fragment: bytes) -> tuple[bytes, Headers | None]:
        """Return a block that stands alone, and its headers if they had to be decoded.

        Raises Violation if the block cannot be read.
        """
        if self.is_bound and any(
            _is_size_update(fragment[place : place + 1]) and fragment[place] != SIZE_UPDATE
            for place in (0, 1)
        ):
            raise frames.Violation(frames.COMPRESSION_ERROR, "the table size exceeds the limit")
        if fragment[:1] == _ZERO_SIZE and not _is_size_update(fragment[1:2]):
            self.is_stateless = True
            self._decoder = None
            return fragment, None
        if self._decoder is None:
            self.is_stateless = False
            self._decoder = _decoder()
        headers = _decoded(self._decoder, fragment)
        return encoded(headers), headers


class HeaderReceiver:
    """Who receives blocks of several senders: its table is closed by the first of them."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        self.is_closed = False

    def close(self, block: bytes) -> bytes:
        """Return the block with the size update in front, unless it has one."""
        self.is_closed = True
        return block if _is_size_update(block[:1]) else _ZERO_SIZE + block


class Needles:
    """The methods that are looked for, each with what it stands for."""

    __slots__ = ("_literals", "_meanings", "_pattern")

    def __init__(self, meanings: Mapping[str, int]) -> None:
        self._meanings = {path.encode(): meaning for path, meaning in meanings.items()}
        self._literals = frozenset(each for path in self._meanings for each in literals(path))
        self._pattern = re.compile(b"|".join(map(re.escape, self._literals)) or rb"(?!)")

    def is_absent(self, block: bytes) -> bool:
        """Return whether a block that stands alone surely names another method."""
        path = path_of(block)
        return path is not None and path not in self._literals

    def meaning(self, fragment: bytes) -> int:
        """Return what the method of a block that stands alone stands for, 0 if not looked for.

        Raises Violation if the block may name such a method but cannot be decoded.
        """
        if self.is_absent(fragment) or not self._pattern.search(fragment):
            return 0
        return self.meaning_of(_decoded(_decoder(), fragment))

    def meaning_of(self, headers: Headers) -> int:
        """Return the same for headers that have been decoded."""
        for name, value in headers:
            if name == b":path" and (meaning := self._meanings.get(value)):
                return meaning
        return 0


def encoded(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block that stands alone, beginning with a size update to zero."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(headers)


def literals(value: bytes) -> Iterable[bytes]:
    """Return the encodings of a string, plain and Huffman; behind its length if that is short."""
    huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
    for flag, string in (0, value), (0x80, huffman):
        if len(string) < 0x7F:
            yield bytes([flag | len(string)]) + string
        else:
            yield string


_PATH_NAMES: Final = frozenset(literals(b":path"))


def path_of(block: bytes) -> bytes | None:
    """Return the literal of `:path` in a block that stands alone, behind its length, undecoded.

    None if it cannot be told so easily: only what usually precedes it is understood here, and no
    path that is longer than a method's.
    """
    place, end = 0, len(block) - 1
    while place < end:
        first = block[place]
        place += 1
        if first & 0x80 or first & SIZE_UPDATE_MASK == SIZE_UPDATE:
            continue
        size = block[place] & 0x7F
        if first in _BEHIND or size == 0x7F:
            return None
        is_path = first in _PATH
        if first in _NAMED:
            is_path = block[place : place + 1 + size] in _PATH_NAMES
            place += 1 + size
            if place > end or (size := block[place] & 0x7F) == 0x7F:
                return None
        if is_path:
            return block[place : place + 1 + size]
        place += 1 + size
    return None


def fragment_of(flags: int, payload: bytes) -> tuple[bytes, bytes]:
    """Return priority bytes (none or five) and block fragment of a HEADERS frame's payload."""
    fragment = frames.unpadded(flags, payload)
    if not flags & frames.PRIORITIZED:
        return b"", fragment
    if len(fragment) < frames.PRIORITY_BYTES:
        raise frames.Violation(frames.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
    return fragment[: frames.PRIORITY_BYTES], fragment[frames.PRIORITY_BYTES :]


class Fields:
    """A header block that has come, of a request or an answer, and what it is forwarded as."""

    __slots__ = ("block", "flags", "fragment", "priority", "raw", "stream")

    def __init__(
        self, stream: int, flags: int, priority: bytes, fragment: bytes, raw: bytes
    ) -> None:
        self.stream = stream
        self.flags = flags
        self.priority = priority
        self.fragment = fragment
        """The block as it came."""
        self.raw = raw
        """The frames as they came."""
        self.block = fragment
        """The block as it is to go on."""

    @property
    def is_changed(self) -> bool:
        """The frames as they came will not do."""
        return self.block is not self.fragment

    def reframed(self) -> bytes:
        """Return the block as it is to go on, in frames of its own."""
        return frames.headers(self.stream, self.block, flags=self.flags, priority=self.priority)


class Block:
    """A header block that came, or comes, in several frames; these as they were, and joined."""

    __slots__ = ("_fragments", "_raw", "flags", "priority", "size", "stream")

    def __init__(self, flags: int, stream: int, raw: bytes) -> None:
        self.flags = flags
        self.stream = stream
        self.size = len(raw)
        self.priority, fragment = fragment_of(flags, raw[frames.HEADER_BYTES :])
        self._raw = [raw]
        self._fragments = [fragment]

    def extend(self, raw: bytes, kind: int, flags: int, stream: int) -> bool:
        """Take in the next frame, which must be a CONTINUATION; return whether it is the last.

        Raises Violation if it is not, or if there are too many, of which empty ones count too.
        """
        if kind != frames.CONTINUATION or stream != self.stream:
            raise frames.Violation(frames.PROTOCOL_ERROR, "a header block was interrupted")
        self.size += len(raw)
        if self.size > BLOCK_BYTES:
            raise frames.Violation(
                frames.ENHANCE_YOUR_CALM, f"a header block exceeds {BLOCK_BYTES} bytes"
            )
        self._raw.append(raw)
        self._fragments.append(raw[frames.HEADER_BYTES :])
        return bool(flags & frames.END_HEADERS)

    def whole(self) -> Fields:
        """Return what all frames together say."""
        fragment = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
        raw = self._raw[0] if len(self._raw) == 1 else b"".join(self._raw)
        return Fields(self.stream, self.flags, self.priority, fragment, raw)


def _is_size_update(first: bytes) -> bool:
    return bool(first) and first[0] & SIZE_UPDATE_MASK == SIZE_UPDATE


def _decoder() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=READ_BYTES)


def _decoded(decoder: hpack.Decoder, fragment: bytes) -> Headers:
    if len(fragment) > READ_BYTES:
        raise frames.Violation(
            frames.ENHANCE_YOUR_CALM, f"a header block to be read exceeds {READ_BYTES} bytes"
        )
    try:
        return tuple(decoder.decode(fragment, raw=True))
    except hpack.OversizedHeaderListError as error:
        raise frames.Violation(
            frames.ENHANCE_YOUR_CALM, f"headers exceed {READ_BYTES} bytes"
        ) from error
    except (hpack.HPACKError, IndexError) as error:
        raise frames.Violation(frames.COMPRESSION_ERROR, "a header block is damaged") from error
