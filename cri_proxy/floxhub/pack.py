"""A git pack, as fetched: the objects of one commit, found by path.

The pack comes from outside, and a few bytes of it can inflate to any size, so it is measured first,
object by object and without keeping anything. Then dulwich indexes it, which computes the id of
every object: what is found below a commit's id is what that commit says, no matter who sent the
pack.

`git` fetches packs; nothing is read from the network here. Source of the format: Git's
gitformat-pack.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from dulwich.errors import ChecksumMismatch, FileFormatException, ObjectFormatException
from dulwich.object_format import SHA1
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.pack import (
    DELTA_TYPES,
    OFS_DELTA,
    MemoryPackIndex,
    Pack,
    PackData,
    PackIndexer,
    UnresolvedDeltas,
)

from cri_proxy import errors

OBJECT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of the largest object that a pack may have; a lockfile is the largest there is."""

TOTAL_LIMIT: Final = 512 * 1024 * 1024
"""Bytes of all objects of a pack together."""

FAULTS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ChecksumMismatch,
    FileFormatException,
    LookupError,
    ObjectFormatException,
    TypeError,
    UnresolvedDeltas,
    ValueError,
    zlib.error,
)
"""What dulwich raises for bytes that are not git's; few of these are classes of its own."""

_HEADER_BYTES: Final = 12
_DIGEST_BYTES: Final = 20
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a pack below one commit; `document` is its name in errors."""

    pack: Pack
    commit: str
    document: str

    def file(self, path: str) -> bytes | None:
        """Return the bytes of the regular file at `path`, or None when nothing is there.

        Raises ContentDamaged when the commit, or an object on the way, is not in the pack or not
        of the kind that it should be.
        """
        with _faults_of(self.document):
            commit = self.pack[ObjectID(self.commit.encode("ascii"))]
            if not isinstance(commit, Commit):
                raise TypeError("the branch's head is not a commit")
            mode, name = stat.S_IFDIR, commit.tree
            for part in path.encode("utf-8").split(b"/"):
                tree = self.pack[name]
                if not isinstance(tree, Tree) or not stat.S_ISDIR(mode):
                    raise TypeError("a directory is not a tree")
                if part not in tree:
                    return None
                mode, name = tree[part]
            blob = self.pack[name]
            if not isinstance(blob, Blob) or not stat.S_ISREG(mode):
                raise TypeError("a file is not a blob")
            return blob.as_raw_string()


@contextmanager
def opened(data: bytes, commit: str, document: str) -> Iterator[Objects]:
    """Yield the objects of a pack; `document` is its name in errors.

    Raises ContentDamaged for a pack that is cut, damaged, incomplete or beyond the limits.
    """
    with _faults_of(document):
        measure(data)
        content = PackData.from_file(BytesIO(data), SHA1, len(data))
    with content:
        with _faults_of(document):
            content.check()
            entries = [(name, at, crc or 0) for name, at, crc in PackIndexer.for_pack_data(content)]
            index = MemoryPackIndex(sorted(entries), SHA1, content.get_stored_checksum())
            pack = Pack.from_objects(content, index)
        with pack:
            yield Objects(pack, commit, document)


def measure(data: bytes) -> int:
    """Return the bytes of all objects, deltas applied; raise ValueError beyond the limits."""
    if data[:8] != b"PACK\0\0\0\2" or len(data) < _HEADER_BYTES + _DIGEST_BYTES:
        raise ValueError("it does not begin as a pack of version 2")
    at, total = _HEADER_BYTES, 0
    for _ in range(int.from_bytes(data[8:12], "big")):
        kind, promised, at = _entry(data, at)
        if promised > OBJECT_LIMIT:
            raise ValueError(f"an object has {promised} bytes")
        head, at = _inflated(data, at, promised)
        total += max(promised, _delta_result(head) if kind in DELTA_TYPES else 0)
        if total > TOTAL_LIMIT:
            raise ValueError(f"its objects have more than {TOTAL_LIMIT} bytes")
    return total


def _entry(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the kind, the inflated size and the start of the compressed bytes of an entry."""
    first = data[at]
    kind, size, shift = first >> 4 & 7, first & 15, 4
    at += 1
    more = first & 128
    while more:
        more, size, shift = data[at] & 128, size | (data[at] & 127) << shift, shift + 7
        at += 1
        if shift > 64:
            raise ValueError("the size of an object has too many digits")
    if kind == OFS_DELTA:
        while data[at] & 128:
            at += 1
        at += 1
    elif kind in DELTA_TYPES:
        at += _DIGEST_BYTES
    return kind, size, at


def _inflated(data: bytes, at: int, promised: int) -> tuple[bytes, int]:
    """Return the first inflated bytes of an object, and where its compressed bytes end."""
    inflater, head, size = zlib.decompressobj(), b"", 0
    while not inflater.eof:
        chunk = inflater.unconsumed_tail
        if not chunk:
            chunk = data[at : at + _CHUNK_BYTES]
            at += len(chunk)
            if not chunk:
                raise ValueError("it ends within an object")
        part = inflater.decompress(chunk, _CHUNK_BYTES)
        head = head or part[:32]
        size += len(part)
        if size > promised:
            raise ValueError("an object is larger than it says")
    return head, at - len(inflater.unused_data)


def _delta_result(delta: bytes) -> int:
    """Return the size that a delta's result has: the second of the numbers it begins with."""
    size = shift = 0
    numbers = []
    for byte in delta:
        size, shift = size | (byte & 127) << shift, shift + 7
        if not byte & 128:
            numbers.append(size)
            size = shift = 0
            if len(numbers) == 2:
                break
    if len(numbers) < 2 or numbers[1] > OBJECT_LIMIT:
        raise ValueError("a delta makes an object of no or too large a size")
    return numbers[1]


@contextmanager
def _faults_of(document: str) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise errors.ContentDamaged(
            f"FloxHub sent a damaged git pack for {document} ({type(error).__name__}): try again, "
            f"and push the environment again if that does not help"
        ) from error
