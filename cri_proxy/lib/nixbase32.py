"""Nix's base 32, the encoding of store path digests and of hashes in narinfo files.

Bytes are encoded from the last to the first, and the alphabet lacks the letters e, o, t and u.
Source of the format: Nix manual, "Store path specification", and libutil's hash.cc.
"""

from __future__ import annotations

import base64
from typing import Final

ALPHABET: Final = "0123456789abcdfghijklmnpqrsvwxyz"
_USUAL: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_TO_USUAL: Final = str.maketrans(ALPHABET, _USUAL)
_OF_USUAL: Final = bytes.maketrans(_USUAL.encode(), ALPHABET.encode())
_LETTERS: Final = frozenset(ALPHABET)


def encode(data: bytes) -> str:
    """Encode `data` in ceil(8·len/5) letters."""
    length = (len(data) * 8 + 4) // 5
    groups = (length + 7) // 8
    usual = base64.b32hexencode(int.from_bytes(data, "little").to_bytes(5 * groups, "big"))
    return usual[8 * groups - length :].translate(_OF_USUAL).decode()


def decode(text: str) -> bytes:
    """Decode base-32 `text`; raise ValueError for letters, a length or padding that are invalid."""
    if not _LETTERS.issuperset(text):
        letter = next(each for each in text if each not in _LETTERS)
        raise ValueError(f"{letter!r} is not a letter of Nix's base 32")
    number = int(text.translate(_TO_USUAL), 32) if text else 0
    size = len(text) * 5 // 8
    if len(text) != (size * 8 + 4) // 5:
        raise ValueError(f"{len(text)} letters are not a whole number of bytes in Nix's base 32")
    if number >> (size * 8):
        raise ValueError("padding bits of a base-32 text must be zero")
    return number.to_bytes(size, "little")
