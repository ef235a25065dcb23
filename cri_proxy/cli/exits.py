"""Exit codes: what a script or systemd can tell from the end of a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cri_proxy import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TEMPORARY: Final = 3
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "done",
    FAILED: "refused or failed; the same command will fail again",
    USAGE: "the command line or the settings cannot be understood; nothing was done",
    TEMPORARY: "failed for now: something did not answer or is full; trying again may help",
    INTERRUPTED: "interrupted by Ctrl-C",
}

_TEMPORARY: Final = (errors.SourceUnreachable, errors.NodeExhausted, errors.StillRealizing)


def of_error(error: errors.CriProxyError) -> int:
    """Return the code of a refusal."""
    return TEMPORARY if isinstance(error, _TEMPORARY) else FAILED


def of_several(codes: Iterable[int]) -> int:
    """Return the code of several outcomes: the first of failed, temporary and done that occurs."""
    found = set(codes)
    return next((code for code in (FAILED, TEMPORARY) if code in found), OK)
