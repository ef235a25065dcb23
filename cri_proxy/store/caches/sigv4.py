"""Signatures of requests to S3: AWS Signature Version 4, for a GET without a body.

The holder of a secret key proves it with each request: the parts of the request are written in a
canonical form and signed with a key that is derived for one day and region. The secret itself is
never sent. Pure: the time is an argument.

Source of the format: AWS General Reference, "Signing AWS API requests", and the Amazon S3 API
Reference, "Authenticating Requests: Using the Authorization Header"; S3 encodes paths once.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import hmac
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key and its secret; temporary ones have a session token, which is sent."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: `path` as it is sent, encoded once; `host` with its port unless usual."""

    host: str
    path: str
    region: str


def headers_of(
    target: Target,
    credentials: Credentials,
    at: datetime.datetime,
    further: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a signed GET, `further` ones among them: all of them are signed.

    `at` is in UTC; servers refuse what is some minutes from their own time.
    """
    moment = at.strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "Host": target.host,
        "X-Amz-Content-SHA256": EMPTY_SHA256,
        "X-Amz-Date": moment,
        **(further or {}),
    }
    if credentials.session_token is not None:
        headers["X-Amz-Security-Token"] = credentials.session_token
    scope = f"{moment[:8]}/{target.region}/s3/aws4_request"
    canonical, signed = _canonical(target.path, headers)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = functools.reduce(_mac, scope.split("/"), f"AWS4{credentials.secret}".encode())
    signature = _mac(key, f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}").hex()
    headers["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, "
        f"SignedHeaders={signed}, Signature={signature}"
    )
    return headers


def encoded(path: str) -> str:
    """Return a path as it is sent and signed: all but unreserved characters and slashes."""
    return urllib.parse.quote(path, safe="/-_.~")


def _canonical(path: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the request in its canonical form, and the names of the headers in it."""
    written = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    signed = ";".join(name for name, _ in written)
    lines = "".join(f"{name}:{value}\n" for name, value in written)
    return f"GET\n{path}\n\n{lines}\n{signed}\n{EMPTY_SHA256}", signed


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
