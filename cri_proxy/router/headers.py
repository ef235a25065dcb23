"""Header blocks: which may be forwarded unchanged, and which name a method of interest.

HPACK's dynamic table is why a block cannot simply be forwarded to a peer of our choice: it may
refer to entries that an earlier block, sent to another peer, left in the receiver's table. So every
side is sent a table size of zero, kubelet after its first call (see `http2settings`). A sender that
complies says so: its next block begins with a size update to zero, the single byte 0x20. From then
on its blocks are self-contained and pass as raw bytes. Before that, and whenever the sender
announces another size, its `HeaderSender` decodes them, and they are re-encoded without a table.
A sender that ignores the limit still works, only slower.

Receivers keep the table size that they announced until a block changes it, and a sender announces
the change once, to whichever side that block went. So the `HeaderReceiver` of each side makes sure
that its first block carries the update too: then no receiver has a table that could be poisoned.

`MethodMatcher` recognizes calls without decoding. A literal string has two encodings, plain and
Huffman, both known in advance, so a block that contains neither cannot name the method. A match is
only a candidate (another header may have the same value) and is confirmed by decoding that block.

Format: RFC 7541.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import hpack
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from cri_proxy.router import frames

BLOCK_BYTES: Final = 2 << 20
"""Largest block, including the headers of the frames that carry it."""
DECODED_BYTES: Final = 96 << 10
"""Largest block that is decoded, before and after: decoding blocks the event loop."""

# RFC 7541, section 6.3: a block that begins with 001xxxxx changes the size of the dynamic table.
SIZE_UPDATE_MASK: Final = 0xE0
SIZE_UPDATE: Final = 0x20

# First bytes of a literal field, RFC 7541, section 6.2. Indexing is 0x4_ (incremental), 0x0_ (none)
# or 0x1_ (never); the rest is the index of the name in the static table of appendix A.
_PATH: Final = frozenset({0x04, 0x05, 0x14, 0x15, 0x44, 0x45})
"""The name is `:path` (index 4 or 5)."""
_NAMED: Final = frozenset({0x00, 0x10, 0x40})
"""The name follows as a string (index 0), as gRPC's C core sends all of them."""
_BEHIND: Final = frozenset({0x0F, 0x1F, 0x7F})
"""The index continues in further bytes, so it is large: such headers follow `:path`."""
_ZERO_SIZE: Final = bytes([SIZE_UPDATE])

Headers = Sequence[tuple[bytes, bytes]]


def _decoder() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=DECODED_BYTES)


@dataclass(slots=True, eq=False)
class HeaderSender:
    """A side that sends header blocks, with a dynamic table until it announces size zero."""

    is_stateless: bool = False
    is_limited: bool = False
    """It has acknowledged size zero and must not announce any other."""
    _decoder: hpack.Decoder | None = field(default_factory=_decoder)

    def must_decode(self, fragment: bytes) -> bool:
        """Return whether the block must pass through `normalized` or may go on unchanged."""
        return not self.is_stateless or _is_size_update(fragment[:1])

    def normalized(self, fragment: bytes) -> tuple[bytes, Headers | None]:
        """Return a self-contained block, and its headers if decoded; raise Violation if invalid."""
        if self.is_limited and any(
            _is_size_update(fragment[place : place + 1]) and fragment[place] != SIZE_UPDATE
            for place in (0, 1)
        ):
            raise frames.Violation(
                frames.COMPRESSION_ERROR, "HPACK table size update exceeds HEADER_TABLE_SIZE"
            )
        # Two updates in a row (to the minimum, then up again) mean that it still has a table.
        if fragment[:1] == _ZERO_SIZE and not _is_size_update(fragment[1:2]):
            self.is_stateless = True
            self._decoder = None
            return fragment, None
        if self._decoder is None:
            self.is_stateless = False
            self._decoder = _decoder()
        headers = _decoded(self._decoder, fragment)
        return encoded(headers), headers


@dataclass(slots=True, eq=False)
class HeaderReceiver:
    """A side that receives the blocks of several senders; the first block empties its table."""

    is_stateless: bool = False

    def made_stateless(self, block: bytes) -> bytes:
        """Return the first block with a size update to zero in front, unless it has one."""
        self.is_stateless = True
        return block if _is_size_update(block[:1]) else _ZERO_SIZE + block


class MethodKind(IntEnum):
    """The kinds of methods that are not simply forwarded."""

    INTERPOSED = 1
    ENDLESS = 2


class MethodMatcher:
    """Recognizes the methods of interest by their paths, `/package.Service/Method`."""

    __slots__ = ("_kinds", "_literals", "_pattern")

    def __init__(self, interposed: frozenset[str], endless: frozenset[str]) -> None:
        self._kinds = {path.encode(): MethodKind.ENDLESS for path in endless} | {
            path.encode(): MethodKind.INTERPOSED for path in interposed
        }
        self._literals = frozenset(each for path in self._kinds for each in literals(path))
        self._pattern = re.compile(b"|".join(map(re.escape, self._literals)) or rb"(?!)")

    def rules_out(self, block: bytes) -> bool:
        """Return whether a self-contained block certainly names another method."""
        path = path_of(block)
        return path is not None and path not in self._literals

    def kind(self, fragment: bytes) -> int:
        """Return the kind of the method that a self-contained block names, 0 for any other.

        Raises Violation if the block may name such a method but cannot be decoded.
        """
        if self.rules_out(fragment) or not self._pattern.search(fragment):
            return 0
        return self.kind_of(_decoded(_decoder(), fragment))

    def kind_of(self, headers: Headers) -> int:
        """Return the same for decoded headers."""
        for name, value in headers:
            if name == b":path" and (kind := self._kinds.get(value)):
                return kind
        return 0


def encoded(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a self-contained block that begins with a size update to zero."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(headers)


def literals(value: bytes) -> Iterable[bytes]:
    """Return the plain and Huffman encodings of a string, with the length prefix if it is short."""
    huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
    for flag, string in (0, value), (0x80, huffman):  # the H bit in front of the length
        if len(string) < 0x7F:
            yield bytes([flag | len(string)]) + string
        else:
            yield string


_PATH_NAMES: Final = frozenset(literals(b":path"))


def path_of(block: bytes) -> bytes | None:
    """Return the still encoded `:path` in a self-contained block, with its length prefix.

    None if it is not found easily: only fields that usually precede it are understood, and no
    string of 127 bytes or more.
    """
    place, end = 0, len(block) - 1
    while place < end:
        first = block[place]
        place += 1
        # Indexed fields (1xxxxxxx) and size updates (001xxxxx) have no string.
        if first & 0x80 or first & SIZE_UPDATE_MASK == SIZE_UPDATE:
            continue
        size = block[place] & 0x7F  # without the H bit; 127 means that the length goes on
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


class HeaderBlock:
    """A header block of a request or a response: as it arrives, and as it is forwarded."""

    __slots__ = ("_more", "block", "flags", "fragment", "priority", "raw", "size", "stream")

    def __init__(self, flags: int, stream: int, raw: bytes) -> None:
        """Begin with a HEADERS frame; raise Violation if padding or priority are malformed."""
        self.flags = flags
        self.stream = stream
        self.size = len(raw)
        self.raw = raw
        """The frames as received."""
        payload = frames.unpadded(flags, raw[frames.HEADER_BYTES :])
        cut = frames.PRIORITY_BYTES if flags & frames.PRIORITIZED else 0
        if len(payload) < cut:
            raise frames.Violation(
                frames.FRAME_SIZE_ERROR, "HEADERS frame is too short for its priority fields"
            )
        self.priority = payload[:cut]
        self.fragment = payload[cut:]
        """The block as received."""
        self.block = self.fragment
        """The block to forward."""
        self._more: list[bytes] = []

    def extend(self, raw: bytes, kind: int, flags: int, stream: int) -> bool:
        """Add the next frame, which must be a CONTINUATION; return whether it is the last.

        Raises Violation if it is another frame, or if the block grows too long; empty frames count
        by their headers.
        """
        if kind != frames.CONTINUATION or stream != self.stream:
            raise frames.Violation(
                frames.PROTOCOL_ERROR, "header block is interrupted by another frame"
            )
        self.size += len(raw)
        if self.size > BLOCK_BYTES:
            raise frames.Violation(
                frames.ENHANCE_YOUR_CALM, f"header block exceeds {BLOCK_BYTES} bytes"
            )
        self._more.append(raw)
        if not flags & frames.END_HEADERS:
            return False
        self.raw = b"".join((self.raw, *self._more))
        fragments = (each[frames.HEADER_BYTES :] for each in self._more)
        self.fragment = self.block = b"".join((self.fragment, *fragments))
        return True

    @property
    def is_changed(self) -> bool:
        """The block to forward differs from the one received."""
        return self.block is not self.fragment

    def reframed(self) -> bytes:
        """Return the block to forward in new frames."""
        return frames.headers(self.stream, self.block, flags=self.flags, priority=self.priority)


def _is_size_update(first: bytes) -> bool:
    return bool(first) and first[0] & SIZE_UPDATE_MASK == SIZE_UPDATE


def _decoded(decoder: hpack.Decoder, fragment: bytes) -> Headers:
    if len(fragment) > DECODED_BYTES:
        raise frames.Violation(
            frames.ENHANCE_YOUR_CALM, f"header block to decode exceeds {DECODED_BYTES} bytes"
        )
    try:
        return tuple(decoder.decode(fragment, raw=True))
    except hpack.OversizedHeaderListError as error:
        raise frames.Violation(
            frames.ENHANCE_YOUR_CALM, f"decoded headers exceed {DECODED_BYTES} bytes"
        ) from error
    except (hpack.HPACKError, IndexError) as error:
        raise frames.Violation(
            frames.COMPRESSION_ERROR, "header block is not valid HPACK"
        ) from error
