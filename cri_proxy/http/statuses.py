"""What an HTTP status means to a caller: one classification for caches, peers and FloxHub."""

from __future__ import annotations

import enum


class Meaning(enum.Enum):
    """What a caller can do after a response."""

    OK = enum.auto()
    DENIED = enum.auto()  # log in, or look elsewhere
    MISSING = enum.auto()  # look elsewhere
    TRANSIENT = enum.auto()  # try again
    REFUSED = enum.auto()  # any other status: the request or the URL is wrong


_MEANINGS = {
    200: Meaning.OK,
    401: Meaning.DENIED,
    403: Meaning.DENIED,
    404: Meaning.MISSING,
    410: Meaning.MISSING,
    408: Meaning.TRANSIENT,
    425: Meaning.TRANSIENT,
    429: Meaning.TRANSIENT,
}


def meaning_of(status: int) -> Meaning:
    """Return what a status means."""
    return _MEANINGS.get(status, Meaning.TRANSIENT if status >= 500 else Meaning.REFUSED)
