"""The keywords of the NAR format, and the limits that this reader sets.

An archive is a sequence of strings: 8 bytes of length (little-endian), the bytes, zeros up to a
multiple of 8. Keywords come in a fixed order, so reader and writer handle runs of them as constant
byte strings:

    MAGIC node
    node   OPEN  REGULAR    length bytes padding              CLOSE
           OPEN  EXECUTABLE length bytes padding              CLOSE
           OPEN  SYMLINK    string                            CLOSE
           OPEN  DIRECTORY  (ENTRY string NODE node CLOSE)*   CLOSE
"""

from __future__ import annotations

import re
from typing import Final


def string(data: bytes) -> bytes:
    """Return `data` as an archive string: length, bytes, padding."""
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def _run(*words: bytes) -> bytes:
    return b"".join(string(word) for word in words)


MAGIC: Final = _run(b"nix-archive-1")
OPEN: Final = _run(b"(", b"type")
CLOSE: Final = _run(b")")
CLOSE_TWICE: Final = CLOSE * 2
REGULAR: Final = _run(b"regular", b"contents")
EXECUTABLE: Final = _run(b"regular", b"executable", b"", b"contents")
SYMLINK: Final = _run(b"symlink", b"target")
DIRECTORY: Final = _run(b"directory")
ENTRY: Final = _run(b"entry", b"(", b"name")
NODE: Final = _run(b"node")

PLAIN_ENTRY: Final = re.compile(
    re.escape(ENTRY)
    + b"(?P<length>.{8})(?P<name>[^\\0/]{1,255})(?P<padding>\\0{0,7})"
    + re.escape(NODE + OPEN)
    + b"(?:(?P<directory>%b)|" % re.escape(DIRECTORY)
    + b"(?:%b|(?P<executable>%b))" % (re.escape(REGULAR), re.escape(EXECUTABLE))
    + b"(?P<size>.{8}))",
    re.DOTALL,
)
"""An entry that is a file, up to its contents, or a directory, up to its entries: nearly all of a
typical archive. The reader must check the lengths in it."""

NAME_BYTES: Final = 255
"""Longest entry name: NAME_MAX of Linux."""
TARGET_BYTES: Final = 4095
"""Longest symlink target: PATH_MAX of Linux without the terminating NUL."""
DEPTH: Final = 256
"""Deepest nesting of directories, including the root. Nix has no such limit; real trees stay below
30, a Linux path cannot name more than 2,048, and each open level costs a file descriptor."""

DIRECTORY_MODE: Final = 0o555
REGULAR_MODE: Final = 0o444
EXECUTABLE_MODE: Final = 0o555
MTIME_SECONDS: Final = 1
"""The modification time of everything in a Nix store; programs treat 0 as "no time"."""
