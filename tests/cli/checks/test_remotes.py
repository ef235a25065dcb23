import base64
import dataclasses
import datetime
import ipaddress
import json
import socket
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cri_proxy.cli.checks import remotes
from cri_proxy.cli.checks.findings import CheckStatus
from cri_proxy.settings import Settings
from hack.testbed import ports


def test_a_cache_that_answers_is_reported_with_its_priority(site):
    finding = remotes.cache(site.url, None)

    assert finding.status is CheckStatus.OK
    assert finding.found.endswith(", priority 40")
    assert site.asked == [("/nix-cache-info", None)]


def test_the_user_of_a_cache_is_sent_to_it_as_a_header(site):
    url = f"{site.url}/x".replace("//", "//me:p%40ss@")

    assert remotes.cache(url, None).status is CheckStatus.OK
    assert site.asked == [("/x/nix-cache-info", f"Basic {base64.b64encode(b'me:p@ss').decode()}")]


@pytest.mark.parametrize("body", [b"StoreDir: /gnu/store\n", b"<html>", b"\xff"])
def test_a_cache_of_another_store_is_of_no_use(site, body):
    site.body = body

    assert remotes.cache(site.url, None).status is CheckStatus.FAIL


def test_an_address_without_a_cache_is_reported_with_its_status(site):
    site.status = 404

    finding = remotes.cache(site.url, None)

    assert finding.status is CheckStatus.FAIL
    assert "404" in finding.found


def test_a_cache_in_a_directory_is_read(tmp_path):
    (tmp_path / "nix-cache-info").write_text("StoreDir: /nix/store\n")

    assert remotes.cache(tmp_path.as_uri(), None).status is CheckStatus.OK
    assert remotes.cache(f"file://{tmp_path}/none", None).status is CheckStatus.FAIL


def test_a_closed_port_is_explained():
    with ports.kept() as port:
        finding = remotes.cache(f"http://127.0.0.1:{port}", None)

    assert finding.status is CheckStatus.FAIL
    assert finding.found == "no connection to it (Connection refused)"


def test_a_name_that_does_not_resolve_is_explained():
    finding = remotes.cache("http://no-such-host.invalid", None)

    assert finding.status is CheckStatus.FAIL
    assert finding.found == "its name does not resolve"


def test_a_closed_connection_is_explained():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def hang_up():
            server.accept()[0].close()

        threading.Thread(target=hang_up).start()
        finding = remotes.cache(url, None)

    assert finding.status is CheckStatus.FAIL
    assert finding.found.startswith("it broke off")


def test_a_certificate_is_refused_unless_its_authority_is_named(site, tmp_path):
    certificate, key = _self_signed(tmp_path)
    site.speak_tls(certificate, key)

    refused = remotes.cache(site.url, None)

    assert refused.status is CheckStatus.FAIL
    assert "its certificate is refused" in refused.found
    assert "ca_file" in refused.advice
    assert remotes.cache(site.url, certificate).status is CheckStatus.OK


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_invalid_file_of_authorities_is_reported(site, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)

    finding = remotes.cache(site.url, file)

    assert finding.status is CheckStatus.FAIL
    assert str(file) in finding.found
    assert site.asked == []


def test_the_http_proxy_of_the_environment_is_asked(site, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)

    assert remotes.cache("http://cache.invalid", None).status is CheckStatus.OK
    assert site.asked[0][0] == "http://cache.invalid/nix-cache-info"
    monkeypatch.setenv("no_proxy", "cache.invalid")
    assert remotes.cache("http://cache.invalid", None).status is CheckStatus.FAIL


def test_an_http_proxy_that_is_not_there_is_blamed_itself(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    finding = remotes.cache("http://cache.invalid", None)

    assert finding.found.startswith("the HTTP proxy does not let us through")
    assert "HTTP_PROXY" in finding.advice


@pytest.mark.parametrize(
    ("status", "expected"), [(200, "ok"), (404, "ok"), (401, "ok"), (503, "warn")]
)
def test_floxhub_is_healthy_with_any_status_below_500(site, status, expected):
    site.status = status

    assert remotes.hub(f"{site.url}/git", None).status == expected


def test_credentials_in_urls_are_not_shown(site):
    url = site.url.replace("//", "//me:hush@")
    settings = Settings()
    names = [check.name for check in remotes.checks_of(_with_cache(settings, url))]

    assert "hush" not in remotes.hub(url, None).found
    assert not any("hush" in name for name in names)


@pytest.mark.parametrize(
    ("skew", "status"), [(0, "ok"), (-100, "warn"), (100, "warn"), (3600, "fail")]
)
def test_the_clock_is_compared_with_those_that_answer(site, skew, status):
    site.skew = skew

    finding = remotes.clock([remotes.cache(site.url, None).clock_skew])

    assert finding.status == status
    assert skew == 0 or ("slow" if skew > 0 else "fast") in finding.found


def test_one_wrong_clock_among_three_is_not_believed():
    assert remotes.clock([0.0, 9000.0, 1.0, None]).status is CheckStatus.OK


def test_a_clock_without_a_comparison_is_a_warning():
    assert remotes.clock([None]).status is CheckStatus.WARN


def test_keys_are_listed_by_name():
    finding = remotes.public_keys(Settings().store.public_keys)

    assert finding.found == "cache.nixos.org-1, flox-cache-public-1"


def test_no_keys_at_all_fail():
    assert remotes.public_keys([]).status is CheckStatus.FAIL


@pytest.fixture
def token_file(tmp_path):
    """A token's file, as private as it should be."""
    path = tmp_path / "token"
    path.touch(0o600)
    return path


def test_a_token_without_an_expiry_is_ok(token_file):
    token_file.write_text("flox_pat_abc\n")

    assert remotes.token(token_file).status is CheckStatus.OK


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (-1, "fail", "expired 1 day ago"),
        (2, "warn", "expires in 2 days"),
        (20, "ok", "valid until"),
    ],
)
def test_the_expiry_of_a_json_web_token_is_reported(token_file, days, status, words):
    claims = json.dumps({"exp": time.time() + days * 86400 + 60 * (1 if days > 0 else -1)})
    body = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
    token_file.write_text(f"eyJhbGciOiJub25lIn0.{body}.c2ln")

    finding = remotes.token(token_file)

    assert finding.status == status
    assert words in finding.found
    assert body not in finding.found


def test_a_token_that_others_may_read_is_a_warning(token_file):
    token_file.write_text("flox_pat_abc")
    token_file.chmod(0o644)

    finding = remotes.token(token_file)

    assert finding.status is CheckStatus.WARN
    assert finding.advice == f"chmod 600 {token_file}"


@pytest.mark.parametrize("content", ["", " \n", "two words", "ä"])
def test_a_file_without_a_token_in_it_fails(token_file, content):
    token_file.write_text(content)

    assert remotes.token(token_file).status is CheckStatus.FAIL


def test_a_token_file_that_is_not_there_fails(tmp_path):
    assert remotes.token(tmp_path / "none").status is CheckStatus.FAIL


def _with_cache(settings, url):
    return dataclasses.replace(settings, store=dataclasses.replace(settings.store, caches=(url,)))


def _self_signed(directory):
    """Return the files of a certificate for 127.0.0.1 and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cache")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return directory / "cert.pem", directory / "key.pem"
