"""Packs: what a commit says, and bytes that are no pack or too much of one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import pytest
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import pack

COMMIT, TREE, BLOB, OFS_DELTA, REF_DELTA = 1, 2, 3, 6, 7


def header(kind: int, size: int) -> bytes:
    first, size = kind << 4 | size & 15, size >> 4
    made = bytearray()
    while size:
        made.append(first | 128)
        first, size = size & 127, size >> 7
    made.append(first)
    return bytes(made)


def packed(entries: Sequence[bytes], count: int | None = None) -> bytes:
    data = b"PACK\0\0\0\2" + (len(entries) if count is None else count).to_bytes(4, "big")
    data += b"".join(entries)
    return data + hashlib.sha1(data, usedforsecurity=False).digest()


def entry(kind: int, content: bytes, *, size: int | None = None, base: bytes = b"") -> bytes:
    return header(kind, len(content) if size is None else size) + base + zlib.compress(content)


def whole(shafile: ShaFile) -> bytes:
    return entry(shafile.type_num, shafile.as_raw_string())


def commit_of(tree: Tree) -> Commit:
    commit = Commit()
    commit.tree = tree.id
    commit.author = commit.committer = b"a <a@b>"
    commit.author_time = commit.commit_time = 0
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = b"push"
    return commit


LOCK = Blob.from_string(b"a lockfile, " * 100)
ENV = Tree()
ENV.add(b"manifest.lock", 0o100644, LOCK.id)
ENV.add(b"link", 0o120000, LOCK.id)
ENV.add(b"module", 0o160000, LOCK.id)
ENV.add(b"odd", 0o100644, ENV.id)
ENV.add(b"absent", 0o100644, ObjectID(b"1" * 40))
TOP = Tree()
TOP.add(b"env", 0o040000, ENV.id)
HEAD = commit_of(TOP)
REVISION = HEAD.id.decode()
PACK = packed([whole(each) for each in (HEAD, TOP, ENV, LOCK)])


def read(data: bytes, path: str = "env/manifest.lock", revision: str = REVISION) -> bytes | None:
    with pack.opened(data, revision, "alice/web") as objects:
        return objects.file(path)


def test_a_file_is_found_by_its_path() -> None:
    assert read(PACK) == LOCK.as_raw_string()


@pytest.mark.parametrize("path", ["nothing", "env/nothing", "nothing/at/all"])
def test_where_nothing_is_there_is_nothing(path: str) -> None:
    assert read(PACK, path) is None


@pytest.mark.parametrize(
    "path", ["env", "env/link", "env/module", "env/odd", "env/absent", "env/manifest.lock/x"]
)
def test_what_is_no_regular_file_is_damage(path: str) -> None:
    with pytest.raises(errors.ContentDamaged, match="damaged git pack for alice/web"):
        read(PACK, path)


@pytest.mark.parametrize("revision", ["1" * 40, TOP.id.decode(), LOCK.id.decode(), "x"])
def test_another_commit_than_the_one_asked_for_is_damage(revision: str) -> None:
    with pytest.raises(errors.ContentDamaged):
        read(PACK, revision=revision)


@pytest.mark.parametrize("base", ["offset", "name"])
def test_deltas_are_applied(base: str) -> None:
    old = Blob.from_string(LOCK.as_raw_string()[:-12])
    size = len(old.as_raw_string())
    # Sizes of base and result, copy all of the base, insert twelve bytes.
    delta = varint(size) + varint(size + 12) + b"\xb0" + size.to_bytes(2, "little")
    delta += b"\x0c" + LOCK.as_raw_string()[-12:]
    first, second = whole(old), b""
    if base == "offset":
        second = entry(OFS_DELTA, delta, base=offset(len(first)))
    else:
        second = entry(REF_DELTA, delta, base=old.sha().digest())
    data = packed([first, second, *(whole(each) for each in (HEAD, TOP, ENV))])

    assert read(data) == LOCK.as_raw_string()
    assert pack.measure(data) > len(LOCK.as_raw_string()) * 2


def varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def offset(number: int) -> bytes:
    made = [number & 127]
    while number := number >> 7:
        number -= 1
        made.insert(0, number & 127 | 128)
    return bytes(made)


BIG = b"\0" * (pack.OBJECT_LIMIT + 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (packed([entry(BLOB, BIG)]), "an object has"),
        (packed([entry(BLOB, BIG[: pack.OBJECT_LIMIT], size=5)]), "larger than it says"),
        (
            packed([whole(LOCK), entry(REF_DELTA, varint(1200) + varint(1 << 40), base=b"x" * 20)]),
            "a delta makes an object of no or too large a size",
        ),
        (packed([entry(REF_DELTA, b"", base=b"x" * 20)]), "a delta makes an object of no or"),
        (packed([b"\xb0" + b"\x80" * 20 + b"\x01"]), "too many digits"),
        (packed([whole(LOCK)], count=2)[:-20], "ends within an object"),
        (b"PACK\0\0\0\3" + PACK[8:], "does not begin as a pack"),
        (b"", "does not begin as a pack"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_few_bytes_that_become_many_are_refused_before_they_do(data: bytes, why: str) -> None:
    with pytest.raises((ValueError, IndexError, zlib.error)) as fault:
        pack.measure(data)
    if isinstance(fault.value, ValueError):
        assert why in str(fault.value)

    with pytest.raises(errors.ContentDamaged, match="try again"):
        read(data)


def test_objects_that_are_too_many_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed([entry(BLOB, BIG[:1_000_000])] * 5)
    assert pack.measure(data) == 5_000_000

    monkeypatch.setattr(pack, "TOTAL_LIMIT", 4_999_999)

    with pytest.raises(ValueError, match="its objects have more than 4999999 bytes"):
        pack.measure(data)


@pytest.mark.parametrize(
    "data",
    [
        PACK[:-1],
        PACK[:-20],
        PACK[:100],
        PACK + b"more",
        packed([whole(each) for each in (HEAD, TOP, ENV)]),
        packed([whole(each) for each in (HEAD, TOP, ENV, LOCK)], count=3),
        packed([whole(each) for each in (HEAD, TOP, ENV, LOCK)], count=5),
        packed([entry(5, b"no kind")]),
        packed([entry(OFS_DELTA, varint(3) + varint(3) + b"\x90\x03", base=b"\x7f")]),
        packed([entry(REF_DELTA, varint(3) + varint(3) + b"\x90\x03", base=b"x" * 20)]),
        packed([entry(COMMIT, b"tree nothing\n")]),
    ],
)
def test_a_pack_that_is_cut_or_incomplete_is_damage(data: bytes) -> None:
    with pytest.raises(errors.ContentDamaged, match="damaged git pack for alice/web"):
        read(data)


@given(st.data())
def test_a_changed_pack_still_says_the_same_or_is_damage(data: st.DataObject) -> None:
    """What a commit's id names cannot be changed, even by one who can correct the checksum."""
    changed = bytearray(PACK[:-20])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    corrected = bytes(changed) + hashlib.sha1(changed, usedforsecurity=False).digest()

    try:
        found = read(corrected)
    except errors.ContentDamaged:
        return

    assert found == LOCK.as_raw_string()


@given(st.binary())
def test_any_bytes_are_damage(data: bytes) -> None:
    for each in (data, b"PACK\0\0\0\2" + data, packed([data])):
        with pytest.raises(errors.ContentDamaged):
            read(each)
