"""An S3 bucket: a directory whose files are served to correctly signed requests.

Signatures are verified by botocore, Amazon's own implementation, and not by the code under test.
Errors have S3's codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hack.testbed.web import FileServer, Request, Status

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>[0-9]{8})/(?P<region>[^/]+)/s3/"
    r"aws4_request, SignedHeaders=(?P<signed>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials with access; temporary ones have a session token."""

    key_id: str
    secret: str
    session_token: str | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The credentials in the form of FloxHub's catalog."""
        variables = {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}
        if self.session_token is not None:
            variables["AWS_SESSION_TOKEN"] = self.session_token
        return variables


class Bucket(FileServer):
    """The bucket `name` in `region`, readable with `login`, or publicly if that is None."""

    def __init__(
        self, directory: Path, name: str, *, login: Login | None, region: str = "us-east-1"
    ) -> None:
        super().__init__(directory)
        self.name = name
        self.region = region
        self.login = login

    @property
    def s3_url(self) -> str:
        """The URL in Nix's form."""
        return f"s3://{self.name}?region={self.region}&endpoint=127.0.0.1:{self.port}&scheme=http"

    def file_of(self, path: str) -> Path:
        """Return the file of an object; the first part of its path is the bucket."""
        name, _, key = path.lstrip("/").partition("/")
        return self.directory / key if name == self.name else self.directory / "no such bucket"

    def refusal_of(self, request: Request) -> Status | None:
        """Return S3's answer to a request without a valid signature; None if it has one."""
        if self.login is None:
            return None
        found = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if found is None:
            return _error(HTTPStatus.FORBIDDEN, "AccessDenied")
        if found["key"] != self.login.key_id:
            return _error(HTTPStatus.FORBIDDEN, "InvalidAccessKeyId")
        if found["region"] != self.region:
            code = "AuthorizationHeaderMalformed"
            return _error(HTTPStatus.BAD_REQUEST, code, {"x-amz-bucket-region": self.region})
        if request.headers.get("x-amz-security-token") != self.login.session_token:
            return _error(HTTPStatus.BAD_REQUEST, "InvalidToken")
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(found["signed"].split(";")):
            return _error(HTTPStatus.FORBIDDEN, "AccessDenied")
        if found["signature"] != _signature(request, found["signed"], self.region, self.login):
            return _error(HTTPStatus.FORBIDDEN, "SignatureDoesNotMatch")
        return None


def _signature(request: Request, signed: str, region: str, login: Login) -> str:
    """Return the expected signature of a request over the headers that it declares as signed."""
    names = signed.split(";")
    url = f"http://{request.headers['host']}{request.path}"
    expected = AWSRequest(request.method, url, {name: request.headers[name] for name in names})
    expected.context["timestamp"] = request.headers["x-amz-date"]
    expected.context["payload_signing_enabled"] = True
    expected.data = b""
    credentials = Credentials(login.key_id, login.secret, login.session_token)
    auth = S3SigV4Auth(credentials, "s3", region)
    canonical = auth.canonical_request(expected)
    signature: str = auth.signature(auth.string_to_sign(expected, canonical), expected)
    return signature


def _error(status: HTTPStatus, code: str, headers: dict[str, str] | None = None) -> Status:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>No.</Message></Error>'
    return Status(status, body.encode(), headers or {})
