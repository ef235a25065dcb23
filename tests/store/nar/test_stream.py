"""The stream between an archive's source and its reader."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from cri_proxy.store.nar import grammar, stream
from cri_proxy.store.nar.stream import Malformed, Stream
from hack.testbed.archives import directory, regular, symlink, word, words

CLOSES = words(")", ")")


class Sips:
    """A source that gives one byte per read."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._data.read(min(size, 1))


def stream_of(data: bytes, *, size: int | None = None) -> Stream:
    return Stream(io.BytesIO(data), len(data) if size is None else size)


def test_accepted_bytes_are_consumed_and_others_stay() -> None:
    found = stream_of(grammar.OPEN + grammar.REGULAR)

    assert not found.accept(grammar.REGULAR)
    assert found.accept(grammar.OPEN)
    assert found.accept(grammar.REGULAR)
    assert not found.accept(grammar.CLOSE)


def test_unexpected_bytes_are_shown() -> None:
    with pytest.raises(Malformed, match=r"unexpected bytes b'\\x01.*'"):
        stream_of(grammar.OPEN + grammar.OPEN).expect(grammar.MAGIC)


def test_the_source_need_not_give_more_than_a_byte_at_a_time() -> None:
    data = grammar.OPEN + word(b"name") + grammar.CLOSE
    found = Stream(Sips(data), len(data))

    found.expect(grammar.OPEN)
    assert found.string(10, "name") == b"name"
    found.expect(grammar.CLOSE)
    assert found.finish() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [0, 5, stream.CHUNK_BYTES, 2 * stream.CHUNK_BYTES + 3])
def test_contents_are_copied_to_a_file(tmp_path: Path, size: int) -> None:
    contents = os.urandom(size)
    data = word(contents) + grammar.CLOSE
    found = stream_of(data)
    with (tmp_path / "file").open("wb") as file:
        found.copy(file.fileno())

    found.expect(grammar.CLOSE)
    assert (tmp_path / "file").read_bytes() == contents
    assert found.finish() == hashlib.sha256(data).digest()


def test_a_string_longer_than_its_limit_is_malformed() -> None:
    with pytest.raises(Malformed, match="its name is 6 bytes long, more than 5"):
        stream_of(word(b"longer")).string(5, "name")


def test_a_length_beyond_the_expected_size_is_malformed_before_it_is_read() -> None:
    with pytest.raises(Malformed, match=f"a length of {2**40} exceeds the expected 8 bytes"):
        stream_of((2**40).to_bytes(8, "little")).string(2**62, "name")


def test_padding_must_be_zero() -> None:
    with pytest.raises(Malformed, match="padding"):
        stream_of(word(b"x")[:-1] + b"\1").string(10, "name")


def test_a_small_file_is_read_in_one_step() -> None:
    node = words("entry", "(", "name") + word(b"run") + words("node")
    found = stream_of(node + regular(b"contents", is_executable=True) + words(")") + grammar.CLOSE)

    entry = found.plain_entry()

    assert entry is not None
    name, mode, contents = entry
    assert (name, mode, bytes(contents or b"")) == (b"run", 0o555, b"contents")
    found.expect(grammar.CLOSE)


def test_a_directory_is_entered_in_one_step() -> None:
    node = words("entry", "(", "name") + word(b"inner") + words("node")
    found = stream_of(node + directory((b"a", regular(b""))))

    assert found.plain_entry() == (b"inner", 0o555, None)
    assert found.accept(grammar.ENTRY)


@pytest.mark.parametrize(
    "node",
    [
        symlink(b"target") + words(")"),
        regular(b"x")[:-24] + b"\1" * 8 + CLOSES,  # padding
        regular(b"x" * 8)[:-16] + words("]", ")"),
        regular(b"x" * stream.CHUNK_BYTES) + words(")"),  # not in the buffer as a whole
    ],
)
def test_any_other_entry_is_left_to_the_slow_path(node: bytes) -> None:
    head = words("entry", "(", "name") + word(b"name") + words("node")
    found = stream_of(head + node)

    assert found.plain_entry() is None
    assert found.accept(grammar.ENTRY)


def test_the_end_must_be_that_of_the_source_and_of_the_expected_size() -> None:
    data = grammar.CLOSE
    short, long, exact = (
        stream_of(data * 2),
        stream_of(data * 2, size=len(data)),
        stream_of(data),
    )
    for each in (short, long, exact):
        each.expect(data)

    with pytest.raises(Malformed, match="16 bytes short of the expected 32"):
        short.finish()
    with pytest.raises(Malformed, match="data follows the expected 16 bytes"):
        long.finish()
    assert exact.finish() == hashlib.sha256(data).digest()


def test_a_source_that_ends_early_is_truncated() -> None:
    with pytest.raises(Malformed, match="truncated after 16 of 100 bytes"):
        stream_of(grammar.CLOSE, size=100).expect(grammar.CLOSE)


def test_a_write_that_takes_less_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_: int, data: bytes | memoryview) -> int:
        written.append(bytes(data[:2]))
        return len(written[-1])

    monkeypatch.setattr(stream.os, "write", write)
    stream.write_all(1, b"abcde")

    assert b"".join(written) == b"abcde"
