"""NARs built word by word, valid or not, as a hostile publisher could serve them.

The product's writer cannot write an invalid archive, so tests that need one build it here. Nothing
is checked, sorted or bounded.
"""

from __future__ import annotations


def word(data: bytes) -> bytes:
    """Return one string in the format: length, bytes, zeros up to a multiple of 8."""
    return len(data).to_bytes(8, "little") + data + b"\0" * (-len(data) % 8)


def words(*texts: str) -> bytes:
    """Return several strings in the format."""
    return b"".join(word(text.encode()) for text in texts)


def archive(node: bytes) -> bytes:
    """Return the complete archive of a node."""
    return words("nix-archive-1") + node


def regular(data: bytes, *, is_executable: bool = False) -> bytes:
    """Return the node of a file."""
    mark = words("executable", "") if is_executable else b""
    return words("(", "type", "regular") + mark + words("contents") + word(data) + words(")")


def symlink(target: bytes) -> bytes:
    """Return the node of a symlink."""
    return words("(", "type", "symlink", "target") + word(target) + words(")")


def directory(*entries: tuple[bytes, bytes]) -> bytes:
    """Return the node of a directory with `entries` of name and node, in the order given."""
    inner = b"".join(
        words("entry", "(", "name") + word(name) + words("node") + node + words(")")
        for name, node in entries
    )
    return words("(", "type", "directory") + inner + words(")")
