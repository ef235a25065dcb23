"""Exit codes, for scripts and systemd."""

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
    OK: "success",
    FAILED: "failed; the same command will fail again",
    USAGE: "invalid command line or settings; nothing was done",
    TEMPORARY: "failed for now (something is unavailable or full); a retry may succeed",
    INTERRUPTED: "interrupted by Ctrl-C",
}

_TEMPORARY: Final = (errors.SourceUnreachable, errors.NodeExhausted, errors.StillRealizing)


def of_error(error: errors.CriProxyError) -> int:
    """Return the exit code of an error."""
    return TEMPORARY if isinstance(error, _TEMPORARY) else FAILED


def of_several(codes: Iterable[int]) -> int:
    """Return the worst of several exit codes: failed, then temporary, then success."""
    found = set(codes)
    return next((code for code in (FAILED, TEMPORARY) if code in found), OK)
