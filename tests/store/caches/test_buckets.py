"""Buckets: what their URLs mean, and what a server of S3 that checks signatures gives for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.http.client import Client
from cri_proxy.http.dialing import Dialer
from cri_proxy.store.caches import buckets, cache
from cri_proxy.store.caches.buckets import Address
from hack.testbed.binary_cache import Publisher
from hack.testbed.bucket import Bucket, Login
from hack.testbed.web import Status

LOGIN = Login("AKIDCANARY0123456789", "secret/canary+0123456789")
TEMPORARY = Login("ASIACANARY0123456789", "secret/canary+of-a-while", "session/canary=0123==")


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "acme")


@pytest.fixture
def bucket(acme: Publisher) -> Iterator[Bucket]:
    with Bucket(acme.directory, "acme-packages", login=LOGIN) as server:
        yield server


@pytest.fixture
def client() -> Client:
    return Client(size=2, silence_seconds=5)


def nar_of(source: cache.Cache, publisher: Publisher) -> bytes:
    """Return an archive that is found by its path and opened, of a package with one file."""
    path = publisher.add("app", b"contents")
    with source.lookup(path).open() as body:
        data = b""
        while chunk := body.read(65536):
            data += chunk
    assert data
    return data


@pytest.mark.parametrize("login", [LOGIN, TEMPORARY, None], ids=["lasting", "temporary", "none"])
def test_narinfos_and_archives_are_read(
    bucket: Bucket, acme: Publisher, client: Client, login: Login | None
) -> None:
    bucket.login = login
    variables = {} if login is None else login.variables

    nar_of(buckets.of_url(bucket.s3_url, variables, client), acme)

    assert bucket.count("/acme-packages/*.narinfo") == 1
    assert bucket.count("/acme-packages/nar/*") == 1
    assert all(("authorization" in each.headers) == bool(login) for each in bucket.requests)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, "AccessDenied"),
        (Login(LOGIN.key_id, "another").variables, "SignatureDoesNotMatch"),
        (Login("AKIDOTHER", LOGIN.secret).variables, "InvalidAccessKeyId"),
    ],
)
def test_a_login_that_is_not_good_has_nothing_and_is_told_why(
    bucket: Bucket,
    acme: Publisher,
    client: Client,
    variables: dict[str, str],
    code: str,
) -> None:
    source = buckets.of_url(bucket.s3_url, variables, client)

    with pytest.raises(errors.NotFound, match=rf"answered 403 Forbidden \({code}\)"):
        source.lookup(acme.add("app", b"app"))


def test_a_session_that_is_over_may_be_renewed_so_that_it_is_no_miss(
    bucket: Bucket, acme: Publisher, client: Client
) -> None:
    over = b"<Error><Code>ExpiredToken</Code><Message>over</Message></Error>"
    bucket.fail("*.narinfo", Status(400, over))
    source = buckets.of_url(bucket.s3_url, LOGIN.variables, client)

    with pytest.raises(errors.SourceUnreachable, match=r"answered 400 Bad Request \(ExpiredToken"):
        source.lookup(acme.add("app", b"app"))


def test_the_region_that_the_server_names_is_believed(
    bucket: Bucket, acme: Publisher, client: Client
) -> None:
    url = bucket.s3_url
    bucket.region = "eu-central-1"
    source = buckets.of_url(url, LOGIN.variables, client)

    nar_of(source, acme)

    assert "/eu-central-1/s3/" in bucket.requests[-1].headers["authorization"]
    assert bucket.count() == 4  # the first was refused: nix-cache-info twice, narinfo, archive


def test_a_redirect_is_not_followed_since_a_session_would_go_with_it(
    bucket: Bucket, acme: Publisher, client: Client, tmp_path: Path
) -> None:
    bucket.login = TEMPORARY
    with Bucket(tmp_path, "elsewhere", login=None) as elsewhere:
        target = {"Location": f"http://127.0.0.1:{elsewhere.port}/elsewhere/x"}
        bucket.fail("*", Status(307, b"", target))
        source = buckets.of_url(bucket.s3_url, TEMPORARY.variables, client)

        with pytest.raises(errors.SourceUnreachable, match="answered 307"):
            source.lookup(acme.add("app", b"app"))

        assert elsewhere.requests == []


def test_a_server_that_is_busy_is_asked_again_in_a_moment(
    bucket: Bucket, acme: Publisher, client: Client
) -> None:
    bucket.fail("*", Status(503, b"<Code>SlowDown</Code>"))
    source = buckets.of_url(bucket.s3_url, LOGIN.variables, client)

    with pytest.raises(cache.Passing, match="SlowDown"):
        source.lookup(acme.add("app", b"app"))


def test_an_object_below_a_prefix(
    bucket: Bucket, acme: Publisher, client: Client, tmp_path: Path
) -> None:
    bucket.directory = tmp_path
    url = bucket.s3_url.replace("acme-packages?", "acme-packages/acme?")

    nar_of(buckets.of_url(url, LOGIN.variables, client), acme)

    assert bucket.count("/acme-packages/acme/*.narinfo") == 1


def test_https_is_spoken_and_its_certificate_verified(
    bucket: Bucket, acme: Publisher, certificate: tuple[Path, Path]
) -> None:
    bucket.speak_tls(*certificate)
    url = bucket.s3_url.replace("&scheme=http", "")
    trusting = Client(size=1, dialer=Dialer(ca_file=certificate[0]), silence_seconds=5)
    others = Client(size=1, silence_seconds=5)

    nar_of(buckets.of_url(url, LOGIN.variables, trusting), acme)
    with pytest.raises(errors.SourceUnreachable, match="TLS failed"):
        buckets.of_url(url, LOGIN.variables, others).lookup(acme.add("app", b"app"))


@pytest.mark.parametrize(
    ("bucket_name", "region", "endpoint", "url"),
    [
        ("acme", "us-east-1", None, "acme.s3.us-east-1.amazonaws.com/x.narinfo"),
        ("acme", "cn-north-1", None, "acme.s3.cn-north-1.amazonaws.com.cn/x.narinfo"),
        ("acme.eu", "eu-west-1", None, "s3.eu-west-1.amazonaws.com/acme.eu/x.narinfo"),
        ("Acme_Old", "us-east-1", None, "s3.us-east-1.amazonaws.com/Acme_Old/x.narinfo"),
        ("acme", "us-east-1", "minio.example:9000", "minio.example:9000/acme/x.narinfo"),
    ],
)
def test_a_bucket_is_in_the_hosts_name_where_that_can_be(
    bucket_name: str, region: str, endpoint: str | None, url: str
) -> None:
    address = Address(bucket_name, "", "https", endpoint)

    assert address.host_in(region) + address.path_of("x.narinfo") == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "names no bucket"),
        ("s3://user:secret@bucket", "names no bucket"),
        ("s3://bucket/?region=x.example/", "a region that is none"),
        ("s3://bucket?region=eu-west-1%40host", "a region that is none"),
        ("s3://bucket?endpoint=host/path", "an endpoint that is no host"),
        ("s3://bucket?endpoint=me:secret@host", "an endpoint that is no host"),
        ("s3://bucket?scheme=ftp", "neither https nor http"),
        ("s3://bucket?endpoint=ftp://host", "neither https nor http"),
        ("s3://bucket?profile=someone", "have the catalog give keys"),
    ],
)
def test_a_url_that_means_no_bucket_is_refused(url: str, words: str, client: Client) -> None:
    with pytest.raises(errors.RequestInvalid, match=words) as refused:
        buckets.of_url(url, {}, client)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": ""}, "a key without its secret"),
        ({"AWS_ACCESS_KEY_ID": ""}, "a key without its secret"),
        ({"AWS_SESSION_TOKEN": "canary\r\nX-Other: 1"}, "a key that cannot be sent"),
        ({"AWS_ACCESS_KEY_ID": "canary canary"}, "a key that cannot be sent"),
    ],
)
def test_a_login_that_cannot_be_is_refused_without_showing_it(
    change: dict[str, str], words: str, client: Client
) -> None:
    with pytest.raises(errors.RequestInvalid, match=words) as refused:
        buckets.of_url("s3://bucket", TEMPORARY.variables | change, client)

    assert "canary" not in str(refused.value)


def test_a_profile_is_passed_over_where_keys_are_given(
    bucket: Bucket, acme: Publisher, client: Client
) -> None:
    url = f"{bucket.s3_url}&profile=someone&multipart-upload=true"

    nar_of(buckets.of_url(url, LOGIN.variables, client), acme)


def test_its_url_is_shown_without_query(client: Client) -> None:
    shown = buckets.of_url("s3://bucket/path/?region=eu&secret=x", {}, client).url

    assert shown == "s3://bucket/path"


def test_what_is_secret_is_in_no_log(
    bucket: Bucket,
    acme: Publisher,
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    bucket.login = TEMPORARY
    source = buckets.of_url(bucket.s3_url, TEMPORARY.variables, client)
    nar_of(source, acme)
    bucket.stop()
    with pytest.raises(errors.SourceUnreachable) as refused:
        source.lookup(acme.add("app", b"app"))

    for part in (TEMPORARY.secret, TEMPORARY.session_token, TEMPORARY.key_id):
        assert part not in caplog.text
        assert part not in f"{refused.value!r}{refused.value.__cause__!r}"
