"""One HTTP request of a check, answered or explained."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.http.client import Client, Request
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import (
    ProxyFailed,
    RequestFailed,
    TimedOut,
    TLSFailed,
    Unconnected,
    Unresolved,
)

_SECONDS: Final = 5.0
_LONGEST_BODY: Final = 65536
_FIX_VARIABLES: Final = "fix HTTPS_PROXY, HTTP_PROXY or NO_PROXY in the daemon's environment"
_EXPLANATIONS: Final[Sequence[tuple[type[RequestFailed], str, str]]] = (
    (ProxyFailed, "the HTTP proxy does not let us through ({})", _FIX_VARIABLES),
    (Unresolved, "its name does not resolve", "fix the node's DNS, or the name"),
    (
        TLSFailed,
        "its certificate is refused ({})",
        "name its certificate authority in ca_file, or look at the node's clock",
    ),
    (
        Unconnected,
        "no connection to it ({})",
        "see that it runs and that firewalls let this node through",
    ),
    (TimedOut, "it does not answer within 5 s", "see that firewalls let this node through"),
    (RequestFailed, "it broke off ({})", "see what answers there"),
)
"""What a failure means to a person, and what to do: the first class that fits counts."""


class Unanswered(Exception):
    """No response; `str()` of it says why, `advice` what to do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class CheckResponse:
    """A response and how long it took; `clock_skew` as in a finding, None without a Date header."""

    status: int
    body: bytes
    seconds: float
    clock_skew: float | None


def get(url: str, ca_file: Path | None) -> CheckResponse:
    """Send one GET as the daemon would: through the environment's proxy, with the URL's user.

    Raises Unanswered.
    """
    started = time.monotonic()
    place, headers = _split(url)
    try:
        client = Client(size=1, dialer=Dialer(ca_file=ca_file), silence_seconds=_SECONDS)
        with contextlib.closing(client.open(Request(place, headers))) as response:
            body = response.read(_LONGEST_BODY)
    except OSError as error:  # of `ca_file`; ssl.SSLError is one, too
        why = error.strerror or str(error)
        raise Unanswered(f"{ca_file}: {why}", "fix ca_file, or leave it empty") from error
    except errors.RequestInvalid as error:
        raise Unanswered(str(error), _FIX_VARIABLES) from error
    except RequestFailed as error:
        why, advice = next(each for kind, *each in _EXPLANATIONS if isinstance(error, kind))
        raise Unanswered(why.format(error), advice) from error
    seconds = time.monotonic() - started
    return CheckResponse(response.status, body, seconds, _skew_of(response.headers.get("date")))


def _split(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its `user:password@`, and the headers that say the same."""
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    login = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    headers = {"Authorization": f"Basic {login}"} if user else {}
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), headers


def _skew_of(date: str | None) -> float | None:
    """Return by how many seconds a Date header is ahead of our clock."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except ValueError:
        return None
