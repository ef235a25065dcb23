"""One HTTP request of a check, answered or explained."""

from __future__ import annotations

import base64
import email.utils
import time
import urllib.parse
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
        response = client.open(Request(place, headers))
        try:
            body = response.read(_LONGEST_BODY)
        finally:
            response.close()
    except OSError as error:  # of `ca_file`; ssl.SSLError is one, too
        why = error.strerror or str(error)
        raise Unanswered(f"{ca_file}: {why}", "fix ca_file, or leave it empty") from error
    except errors.RequestInvalid as error:
        raise Unanswered(str(error), _FIX_VARIABLES) from error
    except RequestFailed as error:
        raise _explained(error) from error
    seconds = time.monotonic() - started
    return CheckResponse(response.status, body, seconds, _skew_of(response.headers.get("date")))


def _split(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its `user:password@`, and the headers that say the same."""
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    login = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    headers = {"Authorization": f"Basic {login}"} if user else {}
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), headers


def _explained(error: RequestFailed) -> Unanswered:
    """Return the explanation of a failure for a person."""
    match error:
        case ProxyFailed():
            return Unanswered(f"the HTTP proxy does not let us through ({error})", _FIX_VARIABLES)
        case Unresolved():
            return Unanswered("its name does not resolve", "fix the node's DNS, or the name")
        case TLSFailed():
            return Unanswered(
                f"its certificate is refused ({error})",
                "name its certificate authority in ca_file, or look at the node's clock",
            )
        case Unconnected():
            return Unanswered(
                f"no connection to it ({error})",
                "see that it runs and that firewalls let this node through",
            )
        case TimedOut():
            return Unanswered(
                "it does not answer within 5 s", "see that firewalls let this node through"
            )
        case _:
            return Unanswered(f"it broke off ({error})", "see what answers there")


def _skew_of(date: str | None) -> float | None:
    """Return by how many seconds a Date header is ahead of our clock."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except ValueError:
        return None
