"""Did-you-mean suggestions for mistyped words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the member of `known` that is most similar to `word`, None if none is similar."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def hint(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` to append to an error about `word`, or an empty string."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""
