"""One HTTP question, answered or explained: what the checks of caches and FloxHub ask with."""

from __future__ import annotations

import email.utils
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3
import urllib3.exceptions

from cri_proxy import errors
from cri_proxy.lib import certificates, proxies

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=5)
_RETRIES: Final = urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5)
_LONGEST_BODY: Final = 65536
_MEND_VARIABLES: Final = "mend HTTPS_PROXY, HTTP_PROXY or NO_PROXY in the daemon's environment"


class Unanswered(Exception):
    """Nobody answered; `str()` of it says why, `advice` what to do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class CheckResponse:
    """An answer and how long it took; `clock_skew` as in a finding, None without a Date header."""

    status: int
    body: bytes
    seconds: float
    clock_skew: float | None


def get(url: str, ca_file: Path | None) -> CheckResponse:
    """Ask once for `url` as the daemon would: through the environment's proxy, with its user.

    Raises Unanswered.
    """
    started = time.monotonic()
    place, headers = _split(url)
    try:
        with _manager_of(place, ca_file) as manager:
            answer = manager.request(
                "GET",
                place,
                headers=headers,
                timeout=_TIMEOUT,
                retries=_RETRIES,
                preload_content=False,
            )
            body = answer.read(_LONGEST_BODY)
    except urllib3.exceptions.HTTPError as error:
        raise _explained(error) from error
    seconds = time.monotonic() - started
    return CheckResponse(answer.status, body, seconds, _skew_of(answer.headers.get("Date")))


def _split(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its `user:password@`, and the headers that say the same."""
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = urllib3.make_headers(
        user_agent="cri-proxy", basic_auth=urllib.parse.unquote(user) if user else None
    )
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), dict(headers)


def _manager_of(url: str, ca_file: Path | None) -> urllib3.PoolManager:
    try:
        context = certificates.context(file=ca_file)
    except OSError as error:  # ssl.SSLError is one, too
        why = error.strerror or str(error)
        raise Unanswered(f"{ca_file}: {why}", "mend ca_file, or leave it empty") from error
    try:
        proxy = proxies.Proxies().of(url)
    except errors.RequestInvalid as error:
        raise Unanswered(str(error), _MEND_VARIABLES) from error
    if proxy is None:
        return urllib3.PoolManager(ssl_context=context)
    return urllib3.ProxyManager(proxy.url, ssl_context=context, proxy_headers=proxy.headers)


def _explained(error: urllib3.exceptions.HTTPError) -> Unanswered:
    """Return what to tell a person about a failure of urllib3."""
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    match reason:
        case urllib3.exceptions.ProxyError():
            return Unanswered(
                f"the HTTP proxy does not let us through ({reason.original_error})",
                _MEND_VARIABLES,
            )
        case urllib3.exceptions.NameResolutionError():
            return Unanswered("its name does not resolve", "mend the node's DNS, or the name")
        case urllib3.exceptions.SSLError():
            return Unanswered(
                f"its certificate is refused ({reason.args[0]})",
                "name its certificate authority in ca_file, or look at the node's clock",
            )
        case urllib3.exceptions.NewConnectionError():
            return Unanswered(
                f"no connection to it ({_reason_of(reason)})",
                "see that it runs and that firewalls let this node through",
            )
        case urllib3.exceptions.TimeoutError():
            return Unanswered(
                "it does not answer within 5 s", "see that firewalls let this node through"
            )
        case _:
            return Unanswered(f"it broke off ({reason})", "see what answers there")


def _reason_of(error: BaseException) -> str:
    """Return the operating system's words in an error that wraps its error."""
    cause = error.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else "no reason given"


def _skew_of(date: str | None) -> float | None:
    """Return by how many seconds a Date header is ahead of our clock."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except ValueError:
        return None
