"""A store path: `/nix/store/<digest>-<name>`, the unit of what a node fetches and keeps.

Source of the form: Nix manual, "Store path specification" (digest: 20 bytes in Nix's base 32;
name: at most 211 of letters, digits and `+-._?=`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors

STORE: Final = "/nix/store"
_BASENAME: Final = re.compile(r"([0-9a-df-np-sv-z]{32})-([A-Za-z0-9+\-_?=.]{1,211})")


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """One object of the store; `digest` is 32 letters of Nix's base 32."""

    digest: str
    name: str

    def __str__(self) -> str:
        return f"{STORE}/{self.basename}"

    @property
    def basename(self) -> str:
        """The last component, `<digest>-<name>`, as directories and narinfo references have it."""
        return f"{self.digest}-{self.name}"


def parse(text: str) -> StorePath:
    """Return the store path that `text` writes in full; raise RequestInvalid when it is none."""
    prefix, _, basename = text.rpartition("/")
    if prefix != STORE:
        raise errors.RequestInvalid(f"{text[:300]!a} is not a store path below {STORE}")
    return of_basename(basename)


def of_basename(text: str) -> StorePath:
    """Return the store path of a last component; raise RequestInvalid when it is none."""
    match = _BASENAME.fullmatch(text)
    if match is None or match[2] in {".", ".."} or match[2].startswith((".-", "..-")):
        raise errors.RequestInvalid(
            f"{text[:300]!a} is not the name of a store path: 32 letters of digest, a dash, a name"
        )
    return StorePath(match[1], match[2])
