import datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy.store.caches import sigv4
from cri_proxy.store.caches.sigv4 import Credentials, Target

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
AT = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)


def test_the_example_of_amazons_documentation() -> None:
    """Amazon S3 API Reference, "Example: GET Object"."""
    target = Target("examplebucket.s3.amazonaws.com", "/test.txt", "us-east-1")

    headers = sigv4.headers_of(target, EXAMPLE, AT, {"Range": "bytes=0-9"})

    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def theirs(target: Target, credentials: Credentials, headers: dict[str, str]) -> str:
    """Return the Authorization that botocore makes of the same request."""
    request = AWSRequest("GET", f"https://{target.host}{target.path}", headers, data=b"")
    request.context["timestamp"] = headers["X-Amz-Date"]
    request.context["payload_signing_enabled"] = True
    own = TheirCredentials(credentials.key_id, credentials.secret, credentials.session_token)
    auth = S3SigV4Auth(own, "s3", target.region)
    canonical = auth.canonical_request(request)
    auth._inject_signature_to_request(
        request, auth.signature(auth.string_to_sign(request, canonical), request)
    )
    authorization: str = request.headers["Authorization"]
    return authorization


PRINTABLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
KEYS = st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), min_size=16, max_size=32)


@given(
    path=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    key_id=KEYS,
    secret=st.text(PRINTABLE, min_size=1, max_size=60),
    token=st.none() | st.text(PRINTABLE, min_size=1, max_size=200),
    region=st.sampled_from(["us-east-1", "eu-central-1", "auto"]),
    at=st.datetimes(min_value=datetime.datetime(2000, 1, 1)),
)
def test_signatures_are_those_of_botocore(
    path: str,
    key_id: str,
    secret: str,
    token: str | None,
    region: str,
    at: datetime.datetime,
) -> None:
    target = Target("bucket.s3.example:9000", sigv4.encoded(f"/{path}"), region)
    credentials = Credentials(key_id, secret, token)

    headers = sigv4.headers_of(target, credentials, at.replace(tzinfo=datetime.UTC))

    ours = headers.pop("Authorization")
    assert ours == theirs(target, credentials, headers)


def test_the_secret_is_in_no_header_and_no_repr() -> None:
    credentials = Credentials("key", "canary-of-the-secret", "canary-of-the-session")

    headers = sigv4.headers_of(Target("host", "/x", "region"), credentials, AT)

    assert "canary-of-the-secret" not in str(headers)
    assert "canary" not in repr(credentials)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/nar/0a+b=c.nar.xz", "/nar/0a%2Bb%3Dc.nar.xz"),
        ("/with space/ü", "/with%20space/%C3%BC"),
        ("/-_.~/A", "/-_.~/A"),
    ],
)
def test_paths_are_encoded_once(path: str, sent: str) -> None:
    assert sigv4.encoded(path) == sent
