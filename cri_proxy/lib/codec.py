"""The codec of everything that the daemon and its other processes send each other: typed JSON.

A message is a frozen dataclass, or a msgspec struct where hundreds travel at a time; both sides
import the same class. Encoding needs no more than the value. Decoding names the class that is
expected, and what does not fit it is refused with the place, as in "Expected `str`, got `int` - at
`$.caches[1]`". Paths of files travel as text.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

T = TypeVar("T")

Encoded = bytes | msgspec.Raw
"""JSON: a message by itself, or one inside another that has not been looked into."""


def encode(value: object) -> bytes:
    """Return a value as JSON.

    Raises TypeError or ValueError for a value that JSON cannot carry.
    """
    return _ENCODER.encode(value)


def decode(data: Encoded, kind: type[T]) -> T:
    """Return the value of class `kind` that `encode` wrote; raise ValueError for anything else."""
    value: T = _decoder(cast("Any", kind)).decode(data)
    return value


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a class; what it knows of the class is found out once."""
    return msgspec.json.Decoder(kind, dec_hook=_of_simple)


def _simple_of(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_simple_of)


def _of_simple(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"a {kind.__name__} cannot be read from {type(value).__name__}")
