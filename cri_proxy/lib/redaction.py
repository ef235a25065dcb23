"""Redaction of secrets: credentials in URLs, and values with the name of a secret.

Logs, errors and the output of `check` pass their values through here. This is the second line of
defence: the first is that tokens are read where they are used and not passed on.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s@?#]+(?=@)")
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_.-])(?:token|secret|password|credentials?|authorization)s?$", re.IGNORECASE
)


def text(value: str) -> str:
    """Return `value` with the credentials in all its URLs replaced by `***`."""
    return _CREDENTIALS.sub(HIDDEN, value) if "://" in value else value


def is_secret(name: str) -> bool:
    """Return whether a value called `name` is a secret: `token` is, `token_file` is not."""
    return _SECRET_NAME.search(name) is not None
