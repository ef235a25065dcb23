"""A reference: `owner/name` or `owner/name:<generation>`, as a pod's annotation has it.

Owner and name become a path of FloxHub's git URL and a git branch, so only names that are safe in
both pass. Source of the form: Flox documentation, "Imageless Kubernetes", configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from cri_proxy import errors

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_GENERATION: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An environment on FloxHub; `generation` is None when the live one is meant."""

    owner: str
    name: str
    generation: int | None = None

    def __str__(self) -> str:
        suffix = "" if self.generation is None else f":{self.generation}"
        return f"{self.owner}/{self.name}{suffix}"

    @property
    def is_pinned(self) -> bool:
        """Return whether one generation is asked for, rather than the live one."""
        return self.generation is not None

    def at(self, generation: int) -> Reference:
        """Return the same environment pinned to `generation`."""
        return replace(self, generation=generation)


def parse(text: str) -> Reference:
    """Return the reference that `text` writes; raise RequestInvalid with what to write instead."""
    path, colon, suffix = text.partition(":")
    owner, slash, name = path.partition("/")
    if not slash or not _is_name(owner) or not _is_name(name):
        raise _refusal(text)
    if not colon:
        return Reference(owner, name)
    if not _GENERATION.fullmatch(suffix):
        hint = f"; for the live generation write {path}" if suffix == "latest" else ""
        raise _refusal(text, hint)
    return Reference(owner, name, int(suffix))


def _refusal(text: str, hint: str = "") -> errors.RequestInvalid:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return errors.RequestInvalid(
        f"{shown!a} is not an environment reference: write owner/name for the live generation, "
        f"or owner/name:7 for generation 7{hint}"
    )


def _is_name(text: str) -> bool:
    """Return whether FloxHub and git both accept `text` as a path component and branch name."""
    return (
        _NAME.fullmatch(text) is not None
        and ".." not in text
        and not text.endswith((".", ".lock", ".git"))
    )
