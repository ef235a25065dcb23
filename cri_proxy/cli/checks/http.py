"""One HTTP question, answered or explained: what the checks of caches and FloxHub ask with."""

from __future__ import annotations

import email.utils
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3
import urllib3.exceptions

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=5)
_LONGEST_BODY: Final = 65536


class Unanswered(Exception):
    """Nobody answered; `str()` of it says why, `advice` what to do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and how long it took; `clock_skew` as in a finding, None without a Date header."""

    status: int
    body: bytes
    seconds: float
    clock_skew: float | None


def get(url: str, ca_file: Path | None) -> Answer:
    """Ask once for `url`, follow no redirect; raise Unanswered."""
    if ca_file is not None and not ca_file.is_file():
        raise Unanswered(f"{ca_file} does not exist", "mend ca_file, or leave it empty")
    started = time.monotonic()
    with urllib3.PoolManager(ca_certs=str(ca_file) if ca_file else None) as pool:
        try:
            answer = pool.request(
                "GET", url, timeout=_TIMEOUT, retries=False, redirect=False, preload_content=False
            )
            body = answer.read(_LONGEST_BODY)
        except urllib3.exceptions.HTTPError as error:
            raise _explained(error) from error
        except (ssl.SSLError, OSError) as error:
            raise Unanswered(str(error), "mend ca_file, or leave it empty") from error
    seconds = time.monotonic() - started
    return Answer(answer.status, body, seconds, _skew_of(answer.headers.get("Date")))


def _explained(error: urllib3.exceptions.HTTPError) -> Unanswered:
    """Return what to tell a person about a failure of urllib3."""
    match error:
        case urllib3.exceptions.NameResolutionError():
            return Unanswered("its name does not resolve", "mend the node's DNS, or the name")
        case urllib3.exceptions.SSLError():
            return Unanswered(
                f"its certificate is refused ({error.args[0]})",
                "name its certificate authority in ca_file, or look at the node's clock",
            )
        case urllib3.exceptions.TimeoutError():
            return Unanswered(
                "it does not answer within 5 s", "see that firewalls let this node through"
            )
        case urllib3.exceptions.NewConnectionError():
            return Unanswered(
                f"no connection to it ({_reason_of(error)})",
                "see that it runs and that firewalls let this node through",
            )
        case _:
            return Unanswered(f"it broke off ({error})", "see what answers there")


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
