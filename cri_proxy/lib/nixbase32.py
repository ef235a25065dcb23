"""Nix's base 32: the alphabet of store path digests and of hashes in narinfo files.

Digits run over the bytes from the last to the first, and the letters e, o, t and u are absent.
Source of the format: Nix manual, "Store path specification", and libutil's hash.cc.
"""

from __future__ import annotations

from typing import Final

ALPHABET: Final = "0123456789abcdfghijklmnpqrsvwxyz"
_VALUES: Final = {letter: value for value, letter in enumerate(ALPHABET)}


def encode(data: bytes) -> str:
    """Return the base-32 text of `data`: ceil(8·len/5) letters."""
    number = int.from_bytes(data, "little")
    length = (len(data) * 8 + 4) // 5
    return "".join(ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(length)))


def decode(text: str) -> bytes:
    """Return the bytes of base-32 `text`.

    Raises ValueError for a letter outside the alphabet, a length that no byte string has, or
    padding bits that are not zero.
    """
    number = 0
    for letter in text:
        try:
            number = number << 5 | _VALUES[letter]
        except KeyError:
            raise ValueError(f"{letter!r} is not a letter of Nix's base 32") from None
    size = len(text) * 5 // 8
    if len(text) != (size * 8 + 4) // 5:
        raise ValueError(f"{len(text)} letters are no whole number of bytes in Nix's base 32")
    if number >> (size * 8):
        raise ValueError("padding bits of a base-32 text must be zero")
    return number.to_bytes(size, "little")
