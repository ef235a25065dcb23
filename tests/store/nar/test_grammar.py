"""The constants of the format, against archives that are spelled out word by word."""

from __future__ import annotations

import pytest

from cri_proxy.store.nar import grammar
from hack.testbed.archives import archive, directory, regular, symlink, word, words


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255])
def test_a_string_has_its_length_and_zeros_up_to_a_multiple_of_8(size: int) -> None:
    data = bytes(range(size))

    found = grammar.string(data)

    assert found == word(data)
    assert len(found) % 8 == 0


def test_runs_of_keywords_make_up_a_node() -> None:
    contents = grammar.string(b"data")

    assert regular(b"data") == grammar.OPEN + grammar.REGULAR + contents + grammar.CLOSE
    assert (
        regular(b"data", is_executable=True)
        == grammar.OPEN + grammar.EXECUTABLE + contents + grammar.CLOSE
    )
    assert symlink(b"data") == grammar.OPEN + grammar.SYMLINK + contents + grammar.CLOSE
    assert archive(directory()) == (
        grammar.MAGIC + grammar.OPEN + grammar.DIRECTORY + grammar.CLOSE
    )


def entry(name: bytes, node: bytes) -> bytes:
    return words("entry", "(", "name") + word(name) + words("node") + node


@pytest.mark.parametrize("is_executable", [False, True])
def test_a_file_is_a_plain_entry_up_to_its_contents(is_executable: bool) -> None:
    data = entry(b"name", regular(b"contents", is_executable=is_executable))

    found = grammar.PLAIN_ENTRY.match(data)

    assert found is not None
    assert found["name"] == b"name"
    assert int.from_bytes(found["size"], "little") == len(b"contents")
    assert (found["executable"] is not None) == is_executable
    assert data[found.end() :].startswith(b"contents")


def test_a_directory_is_a_plain_entry_up_to_its_entries() -> None:
    data = entry(b"name", directory((b"inner", regular(b""))))

    found = grammar.PLAIN_ENTRY.match(data)

    assert found is not None
    assert found["directory"] is not None
    assert data[found.end() :].startswith(grammar.ENTRY)


@pytest.mark.parametrize(
    "data",
    [
        entry(b"name", symlink(b"target")),
        entry(b"a/b", regular(b"")),
        entry(b"a\0b", regular(b"")),
        entry(b"", regular(b"")),
        entry(b"n" * 256, regular(b"")),
        words(")"),
    ],
)
def test_anything_else_is_none(data: bytes) -> None:
    assert grammar.PLAIN_ENTRY.match(data) is None
