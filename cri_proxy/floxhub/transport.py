"""HTTP to FloxHub: one request, one whole response, bounded in bytes and in time.

`git` and `catalog` send their requests here. Responses are read into memory, up to the limit of the
request, and a deadline covers everything from the name lookup to the last byte: a silent server and
one that sends a byte now and then both end as SourceUnreachable. A connection that breaks is tried
once more; every request sent here may be repeated.

Failures are explained in terms of the request's subject and of what an operator can do. Neither
tokens nor proxy passwords get into messages. Redirects are followed within the same origin only, so
that a token never goes elsewhere.

Proxies come from the standard variables (`lib.proxies`), trust from the system's certificates and
`ca_file`.
"""

from __future__ import annotations

import math
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import cri_proxy
from cri_proxy import errors
from cri_proxy.http.client import Client, Follow, Request, WholeResponse
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import (
    Broken,
    ProxyFailed,
    RedirectRefused,
    RequestFailed,
    TimedOut,
    TLSFailed,
    TooLarge,
    TooManyRedirects,
    Unconnected,
    Unresolved,
)
from cri_proxy.http.statuses import Meaning, meaning_of
from cri_proxy.lib import certificates, proxies
from cri_proxy.lib.eventloop import Loop

AGENT: Final = f"cri-proxy/{cri_proxy.__version__}"
"""The User-Agent of requests to FloxHub."""

_CONNECTIONS: Final = 32  # kept for reuse; as many as a worker has threads


class Deadline:
    """A moment on the monotonic clock by which a response must be complete."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, never negative."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True, slots=True)
class RequestSubject:
    """What a request is about, as refusals name it, and whether a token goes with it."""

    name: str
    has_token: bool


class Transport:
    """Connections to one origin, shared by threads."""

    def __init__(
        self, base_url: str, *, ca_file: Path | None = None, loop: Loop | None = None
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise errors.RequestInvalid(
                "FloxHub's URL must be like https://api.flox.dev/git, with no user or password in "
                "it: fix the settings"
            )
        self.origin = f"{parts.scheme}://{parts.netloc}"
        proxies.Proxies().of(self.origin)  # variables that name no proxy are refused at once
        self._client = Client(
            size=_CONNECTIONS,
            loop=loop,
            dialer=Dialer(trust=None if ca_file is None else _trust(ca_file)),
            silence_seconds=math.inf,  # the deadline bounds it
        )

    def ask(
        self, request: Request, limit: int, subject: RequestSubject, deadline: Deadline
    ) -> WholeResponse:
        """Return the response of status 200, with a body of at most `limit` bytes.

        Raises AccessDenied, NotFound, SourceUnreachable and ContentDamaged according to the
        response or its absence, and RequestInvalid for a redirect to another origin.
        """
        try:
            fetched = self._send(request, limit, deadline)
        except TooLarge as error:
            raise self._nonsense(subject, f"more than {limit} bytes") from error
        except RequestFailed as error:
            raise self._failure(error, subject, deadline) from error
        if meaning_of(fetched.status) is not Meaning.OK:
            raise self._refusal(fetched.status, subject)
        encoding = fetched.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self._nonsense(subject, f"an encoding that was not asked for ({encoding[:40]!a})")
        return fetched

    def _send(self, request: Request, limit: int, deadline: Deadline) -> WholeResponse:
        """Send a request, and once more if its connection breaks."""
        headers = {"User-Agent": AGENT, **request.headers}
        sent = replace(request, headers=headers, follow=Follow.ORIGIN)
        for is_last in (False, True):
            remaining = deadline.remaining()
            if not remaining:
                break
            try:
                return self._client.ask(sent, limit=limit, seconds=remaining)
            except (RedirectRefused, TooManyRedirects):
                raise
            except Broken:
                if is_last:
                    raise
        raise TimedOut("the deadline has passed")

    def _failure(
        self, error: RequestFailed, subject: RequestSubject, deadline: Deadline
    ) -> errors.CriProxyError:
        """Return what a failed request means to the caller, in words that have no secrets."""
        match error:
            case RedirectRefused():
                parts = urlsplit(error.url)
                return errors.RequestInvalid(
                    f"FloxHub at {self.origin} redirects {subject.name} to "
                    f"{parts.scheme}://{parts.hostname}, where cri-proxy does not follow: set "
                    f"FloxHub's URL to that address if it is the right one"
                )
            case TooManyRedirects():
                return errors.ContentDamaged(
                    f"FloxHub at {self.origin} redirects {subject.name} in circles: check its URL"
                )
            case ProxyFailed():
                reason = "the HTTP proxy cannot be reached; check the proxy variables"
            case TLSFailed():
                reason = (
                    "its certificate is not trusted or TLS failed; check FloxHub's ca_file setting"
                )
            case Unresolved():
                reason = "its name does not resolve; check the node's DNS"
            case Unconnected():
                reason = "no connection can be made; check the network"
            case TimedOut():
                reason = f"it was not done within {deadline.seconds:g} s"
            case Broken():
                reason = "the connection broke twice"
            case _:
                reason = f"the exchange failed ({type(error).__name__})"
        return self._unreachable(subject, reason)

    def _refusal(self, status: int, subject: RequestSubject) -> errors.CriProxyError:
        host = self.origin
        meaning = meaning_of(status)
        if meaning is Meaning.DENIED and subject.has_token:
            return errors.AccessDenied(
                f"FloxHub at {host} refuses the token for {subject.name} (HTTP {status}): it has "
                f"expired, or it has no access; renew it with `flox auth login` and "
                f"`flox auth token`"
            )
        if meaning is Meaning.DENIED:
            return errors.AccessDenied(
                f"FloxHub at {host} requires a token for {subject.name} "
                f"(HTTP {status}): it is private or does not exist; check the reference, or mount "
                f"a secret with the key floxhub-token at /var/run/secrets/flox.dev"
            )
        if meaning is Meaning.MISSING:
            doubt = (
                "or the token has no access to it"
                if subject.has_token
                else "or it is private and the pod has no token"
            )
            return errors.NotFound(
                f"{subject.name} does not exist on FloxHub at {host}, {doubt}: check the reference"
            )
        if status == 407:
            return self._unreachable(subject, "the HTTP proxy asks for a password")
        if meaning is Meaning.TRANSIENT:
            return self._unreachable(subject, f"it answers HTTP {status}")
        return self._nonsense(subject, f"HTTP {status}")

    def _unreachable(self, subject: RequestSubject, reason: str) -> errors.SourceUnreachable:
        return errors.SourceUnreachable(
            f"FloxHub at {self.origin} gave no answer about {subject.name}: {reason}"
        )

    def _nonsense(self, subject: RequestSubject, what: str) -> errors.ContentDamaged:
        return errors.ContentDamaged(
            f"FloxHub at {self.origin} answered about {subject.name} with {what}: check that "
            f"FloxHub's URL in the settings is right"
        )


def _trust(ca_file: Path) -> ssl.SSLContext:
    """Return what trusts the system's authorities and those in a file."""
    trust = certificates.context()
    try:
        trust.load_verify_locations(cafile=ca_file)
    except OSError as error:
        raise errors.RequestInvalid(
            f"{ca_file} cannot be read as PEM certificates: fix FloxHub's ca_file setting"
        ) from error
    return trust
