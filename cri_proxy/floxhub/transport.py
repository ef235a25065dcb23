"""HTTP to FloxHub: one question, one whole answer, bounded in bytes and in time.

`git` and `catalog` ask through here. Answers are read into memory, at most as many bytes as the
question allows, and a deadline covers everything from the name lookup to the last byte: a server
that is silent and one that sends a byte now and then both end as SourceUnreachable. A connection
that breaks is tried once more; every question asked here may be asked twice.

What goes wrong is told in terms of the question's subject and of what an operator can do. Neither
tokens nor proxy passwords get into messages: reasons are written here, not taken from exceptions.
Redirects are followed within the same origin only, so that a token never goes elsewhere.

Proxies come from the standard variables (`lib.proxies`), trust from the system's certificates and
`ca_file`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import urllib3
import urllib3.exceptions

import cri_proxy
from cri_proxy import errors
from cri_proxy.lib import certificates, proxies
from cri_proxy.lib.once import Once

AGENT: Final = f"cri-proxy/{cri_proxy.__version__}"
"""How we introduce ourselves to FloxHub."""

_CHUNK_BYTES: Final = 64 * 1024
_CONNECTIONS: Final = 32  # kept for reuse; as many as a worker has threads
_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PASSING: Final = frozenset({408, 425, 429})


class Deadline:
    """A moment on the monotonic clock by which an answer must be complete."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, never negative."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True, slots=True)
class RequestSubject:
    """What a question is about, as refusals name it, and whether a token goes with it."""

    name: str
    has_token: bool


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One request; `limit` is the most bytes that its answer may have."""

    method: str
    url: str
    limit: int
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HubResponse:
    """A complete answer of status 200; `url` is where redirects ended."""

    url: str
    content_type: str
    body: bytes


class Transport:
    """Connections to one origin, shared by threads."""

    def __init__(self, base_url: str, *, ca_file: Path | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise errors.RequestInvalid(
                "FloxHub's URL must be like https://api.flox.dev/git, with no user or password in "
                "it: mend the settings"
            )
        self.origin = f"{parts.scheme}://{parts.netloc}"
        proxy = proxies.Proxies().of(self.origin)
        self._pool = Once(lambda: _pool(proxy, _trust(ca_file)))
        if ca_file is not None:
            self._pool.get()  # whoever set it hears at once that it cannot be read

    def ask(self, question: HubRequest, subject: RequestSubject, deadline: Deadline) -> HubResponse:
        """Return the answer of status 200.

        Raises AccessDenied, NotFound, SourceUnreachable and ContentDamaged as the answer or its
        absence has it, and RequestInvalid for a redirect to another origin.
        """
        try:
            return self._follow(question, subject, deadline)
        except urllib3.exceptions.ProtocolError:
            pass  # the connection broke, as those do that a server closed while they were idle
        try:
            return self._follow(question, subject, deadline)
        except urllib3.exceptions.ProtocolError as error:
            raise self._unreachable(subject, "the connection broke twice") from error

    def _follow(
        self, question: HubRequest, subject: RequestSubject, deadline: Deadline
    ) -> HubResponse:
        """Ask, and ask again where same-origin redirects point."""
        for _ in range(_MOST_REDIRECTS + 1):
            outcome = self._exchange(question, subject, deadline)
            if isinstance(outcome, HubResponse):
                return outcome
            parts = urlsplit(outcome)
            if f"{parts.scheme}://{parts.netloc}" != self.origin or question.method != "GET":
                raise errors.RequestInvalid(
                    f"FloxHub at {self.origin} redirects {subject.name} to "
                    f"{parts.scheme}://{parts.hostname}, where cri-proxy does not follow: set "
                    f"FloxHub's URL to that address if it is the right one"
                )
            question = replace(question, url=outcome)
        raise errors.ContentDamaged(
            f"FloxHub at {self.origin} redirects {subject.name} in circles: check its URL"
        )

    def _exchange(
        self, question: HubRequest, subject: RequestSubject, deadline: Deadline
    ) -> HubResponse | str:
        """Return the answer of one request, or the URL that it redirects to."""
        try:
            response = self._pool.get().request(
                question.method,
                question.url,
                body=question.body,
                headers={"User-Agent": AGENT, **question.headers},
                timeout=urllib3.Timeout(total=self._patience(subject, deadline)),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                if response.status in _REDIRECTS and "location" in response.headers:
                    return urljoin(question.url, response.headers["location"])
                if response.status != 200:
                    raise self._refusal(response.status, subject)
                body = self._read(response, question, subject, deadline)
            except BaseException:
                response.close()
                raise
            response.release_conn()
            return HubResponse(question.url, response.headers.get("content-type", ""), body)
        except urllib3.exceptions.ProtocolError:
            raise
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(subject, _reason(error, deadline)) from error

    def _read(
        self,
        response: urllib3.BaseHTTPResponse,
        question: HubRequest,
        subject: RequestSubject,
        deadline: Deadline,
    ) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._nonsense(subject, "an encoding that was not asked for")
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
            body += chunk
            if len(body) > question.limit:
                raise self._nonsense(subject, f"more than {question.limit} bytes")
            self._patience(subject, deadline)
        return bytes(body)

    def _patience(self, subject: RequestSubject, deadline: Deadline) -> float:
        """Return the seconds that are left; raise SourceUnreachable when there are none."""
        remaining = deadline.remaining()
        if not remaining:
            raise self._unreachable(subject, _late(deadline))
        return remaining

    def _refusal(self, status: int, subject: RequestSubject) -> errors.CriProxyError:
        """Return what an HTTP status other than 200 means to the caller."""
        host = self.origin
        if status in {401, 403} and subject.has_token:
            return errors.AccessDenied(
                f"FloxHub at {host} refuses the token for {subject.name} (HTTP {status}): it has "
                f"expired, or it has no access; renew it with `flox auth login` and "
                f"`flox auth token`"
            )
        if status in {401, 403}:
            return errors.AccessDenied(
                f"FloxHub at {host} requires a token for {subject.name} "
                f"(HTTP {status}): it is private or does not exist; check the reference, or mount "
                f"a secret with the key floxhub-token at /var/run/secrets/flox.dev"
            )
        if status in {404, 410}:
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
        if status >= 500 or status in _PASSING:
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


def _pool(proxy: proxies.Proxy | None, trust: ssl.SSLContext) -> urllib3.PoolManager:
    """Return the connections to an origin, through the proxy that is set for it."""
    if proxy is None:
        return urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=trust)
    return urllib3.ProxyManager(
        proxy.url,
        maxsize=_CONNECTIONS,
        ssl_context=trust,
        proxy_ssl_context=trust,
        proxy_headers=proxy.headers,
    )


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    trust = certificates.context()
    if ca_file is not None:
        try:
            trust.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise errors.RequestInvalid(
                f"{ca_file} cannot be read as PEM certificates: mend FloxHub's ca_file setting"
            ) from error
    return trust


def _reason(error: urllib3.exceptions.HTTPError, deadline: Deadline) -> str:
    """Return why there was no answer, in words that have no secrets in them."""
    match error:
        case urllib3.exceptions.ProxyError():
            return "the HTTP proxy cannot be reached; check the proxy variables"
        case urllib3.exceptions.SSLError():
            return "its certificate is not trusted or TLS failed; check FloxHub's ca_file setting"
        case urllib3.exceptions.NameResolutionError():
            return "its name does not resolve; check the node's DNS"
        case urllib3.exceptions.NewConnectionError():  # a TimeoutError, too, for urllib3
            return "no connection can be made; check the network"
        case urllib3.exceptions.TimeoutError():
            return _late(deadline)
        case _:
            return f"the exchange failed ({type(error).__name__})"


def _late(deadline: Deadline) -> str:
    return f"it was not done within {deadline.seconds:g} s"
