"""What must not be shown: passwords inside URLs, and values whose name says that they are secret.

Logs, refusals and the settings view pass their values through here. This is the second line: the
first is that tokens are read where they are used and handed to nobody.
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
    """Return `value` with the credentials of every URL in it hidden."""
    return _CREDENTIALS.sub(HIDDEN, value) if "://" in value else value


def is_secret(name: str) -> bool:
    """Whether a value called `name` is a secret itself; `token_file` is only where one lies."""
    return _SECRET_NAME.search(name) is not None
