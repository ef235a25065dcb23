"""HTTP to FloxHub: whole answers within bounds, and refusals that say what to do."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cri_proxy import errors
from cri_proxy.floxhub.transport import (
    AGENT,
    Deadline,
    RequestSubject,
    Transport,
)
from cri_proxy.http.client import Request as Asked
from cri_proxy.http.client import WholeResponse
from hack.testbed import ports
from hack.testbed.web import Drip, Request, Reset, Server, Status, Truncation

WEB = RequestSubject("alice/web", has_token=False)
PATIENCE = 60.0


class Echo(Server):
    """Answers with what it was asked."""

    def answer(self, request: Request) -> Status:
        return Status(200, f"{request.method} {request.path} ".encode() + request.body)


@pytest.fixture
def server() -> Iterator[Echo]:
    with Echo() as served:
        yield served


def ask(server: Server, path: str = "/x", *, limit: int = 10_000) -> WholeResponse:
    transport = Transport(server.url)
    return transport.ask(Asked(server.url + path), limit, WEB, Deadline(PATIENCE))


def test_an_answer_comes_whole_with_its_type(server: Echo) -> None:
    transport = Transport(server.url)
    question = Asked(f"{server.url}/x?y=1", {"X-Y": "z"}, method="POST", body=b"body")

    answer = transport.ask(question, 10_000, WEB, Deadline(PATIENCE))

    assert (answer.url, answer.body) == (question.url, b"POST /x?y=1 body")
    assert answer.headers["content-type"] == "text/plain"
    assert server.requests[0].headers["user-agent"] == AGENT


def test_connections_are_kept(server: Echo) -> None:
    transport = Transport(server.url)
    for _ in range(3):
        transport.ask(Asked(f"{server.url}/x"), 10_000, WEB, Deadline(PATIENCE))

    assert len({each.port for each in server.requests}) == 1


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (400, errors.ContentDamaged, "with HTTP 400: check that FloxHub's URL"),
        (401, errors.AccessDenied, "requires a token for alice/web .HTTP 401."),
        (403, errors.AccessDenied, "requires a token for alice/web .HTTP 403."),
        (404, errors.NotFound, "alice/web does not exist"),
        (410, errors.NotFound, "alice/web does not exist"),
        (407, errors.SourceUnreachable, "proxy asks for a password"),
        (408, errors.SourceUnreachable, "answers HTTP 408"),
        (429, errors.SourceUnreachable, "answers HTTP 429"),
        (500, errors.SourceUnreachable, "answers HTTP 500"),
        (503, errors.SourceUnreachable, "answers HTTP 503"),
        (204, errors.ContentDamaged, "with HTTP 204"),
        (301, errors.ContentDamaged, "with HTTP 301"),
    ],
)
def test_every_status_is_told_by_what_can_be_done(
    server: Echo, status: int, error: type[errors.CriProxyError], sentence: str
) -> None:
    server.fail("*", Status(status))

    with pytest.raises(error, match=sentence) as refusal:
        ask(server)

    assert server.url in str(refusal.value)
    assert "alice/web" in str(refusal.value)


def test_an_answer_beyond_the_limit_is_refused(server: Echo) -> None:
    server.fail("*", Status(200, b"x" * 1001))

    with pytest.raises(errors.ContentDamaged, match="more than 1000 bytes"):
        ask(server, limit=1000)


def test_an_answer_at_the_limit_passes(server: Echo) -> None:
    server.fail("*", Status(200, b"x" * 1000))

    assert ask(server, limit=1000).body == b"x" * 1000


def test_a_connection_that_breaks_is_tried_once_more(server: Echo) -> None:
    server.fail("*", Reset(), times=1)

    assert ask(server).body == b"GET /x "
    assert server.count() == 2


def test_an_answer_that_is_cut_is_asked_for_once_more(server: Echo) -> None:
    server.fail("*", Truncation(3), times=1)

    assert ask(server).body == b"GET /x "


def test_a_connection_that_breaks_twice_is_unreachable(server: Echo) -> None:
    server.fail("*", Reset())

    with pytest.raises(errors.SourceUnreachable, match="the connection broke twice"):
        ask(server)
    assert server.count() == 2


def test_a_kept_connection_that_the_server_closed_is_replaced(server: Echo) -> None:
    transport = Transport(server.url)
    question = Asked(f"{server.url}/x")
    transport.ask(question, 10_000, WEB, Deadline(PATIENCE))
    server.stop()
    server.start()

    assert transport.ask(question, 10_000, WEB, Deadline(PATIENCE)).body == b"GET /x "


def test_a_silent_server_is_left_at_the_deadline(server: Echo) -> None:
    with server.hold(), pytest.raises(errors.SourceUnreachable, match=r"not done within 0.2 s"):
        Transport(server.url).ask(Asked(f"{server.url}/x"), 100, WEB, Deadline(0.2))


def test_a_server_that_sends_a_byte_now_and_then_is_left_at_the_deadline(server: Echo) -> None:
    server.fail("*", Drip())

    with pytest.raises(errors.SourceUnreachable, match=r"not done within 0.4 s"):
        Transport(server.url).ask(Asked(f"{server.url}/x"), 10**7, WEB, Deadline(0.4))


def test_a_deadline_that_has_passed_asks_nothing(server: Echo) -> None:
    with pytest.raises(errors.SourceUnreachable, match="not done within 0 s"):
        Transport(server.url).ask(Asked(f"{server.url}/x"), 100, WEB, Deadline(0))
    assert server.count() == 0


def test_a_port_where_nobody_listens_is_unreachable(server: Echo) -> None:
    server.stop()

    with pytest.raises(errors.SourceUnreachable, match="no connection can be made"):
        ask(server)


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    url = "http://does-not-exist.invalid"

    with pytest.raises(errors.SourceUnreachable, match="name does not resolve"):
        Transport(url).ask(Asked(f"{url}/x"), 100, WEB, Deadline(PATIENCE))


def test_what_does_not_speak_http_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def greet() -> None:
            for _ in range(2):
                connection, _address = listener.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                    connection.recv(1000)

        greeting = pool.submit(greet)
        with pytest.raises(errors.SourceUnreachable, match="the connection broke twice"):
            Transport(url).ask(Asked(f"{url}/x"), 100, WEB, Deadline(PATIENCE))
        greeting.result(PATIENCE)


def test_an_encoding_that_was_not_asked_for_is_refused(server: Echo) -> None:
    server.fail("*", Status(200, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(errors.ContentDamaged, match="encoding that was not asked for"):
        ask(server)


# Redirects.


def test_redirects_within_the_origin_are_followed(server: Echo) -> None:
    server.fail("*", Status(302, headers={"Location": "/moved?y=1"}), times=1)

    answer = ask(server)

    assert answer.body == b"GET /moved?y=1 "
    assert answer.url == f"{server.url}/moved?y=1"


def test_redirects_in_circles_end(server: Echo) -> None:
    server.fail("*", Status(301, headers={"Location": "/x"}))

    with pytest.raises(errors.ContentDamaged, match="in circles"):
        ask(server)
    assert server.count() < 10


def test_a_redirect_elsewhere_is_not_followed_and_told(server: Echo) -> None:
    with Echo() as other:
        server.fail("*", Status(307, headers={"Location": f"{other.url}/x"}))

        with pytest.raises(
            errors.RequestInvalid, match=r"redirects alice/web to http://127\.0\.0\.1"
        ):
            ask(server)

        assert other.count() == 0


def test_a_question_with_a_body_is_not_asked_elsewhere(server: Echo) -> None:
    server.fail("*", Status(307, headers={"Location": "/moved"}))
    transport = Transport(server.url)

    with pytest.raises(errors.RequestInvalid, match="does not follow"):
        transport.ask(
            Asked(f"{server.url}/x", method="POST", body=b"x"), 100, WEB, Deadline(PATIENCE)
        )
    assert server.count() == 1


# TLS.


class Pair(NamedTuple):
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "testbed")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    made = Pair(directory / "certificate.pem", directory / "key.pem")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


def test_a_certificate_of_the_ca_file_is_trusted(pair: Pair) -> None:
    with Echo(certificate=pair) as server:
        transport = Transport(server.url, ca_file=pair.certificate)

        answer = transport.ask(Asked(f"{server.url}/x"), 100, WEB, Deadline(PATIENCE))

        assert answer.body == b"GET /x "


def test_a_certificate_of_nobody_is_not_trusted(pair: Pair) -> None:
    with Echo(certificate=pair) as server:
        with pytest.raises(errors.SourceUnreachable, match=r"not trusted .* ca_file"):
            ask(server)
        assert server.count() == 0


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_without_certificates_is_refused_at_once(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(errors.RequestInvalid, match=r"ca\.pem cannot be read as PEM cert"):
        Transport("https://127.0.0.1", ca_file=file)


# Proxies.


class _Proxy(BaseHTTPRequestHandler):
    """A proxy for plain HTTP that notes what it is asked and answers by itself."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"proxied")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Proxy,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://user:p%40ss@{}", "user:p%40ss@{}"])
def test_the_proxy_of_the_environment_is_used_with_its_password(
    proxy: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    address = f"127.0.0.1:{proxy.server_address[1]}"
    monkeypatch.setenv(name, form.format(address))
    url = "http://floxhub.invalid"

    answer = Transport(url).ask(Asked(f"{url}/x"), 100, WEB, Deadline(PATIENCE))

    assert answer.body == b"proxied"
    assert proxy.RequestHandlerClass.seen == [  # type: ignore[attr-defined]
        (f"{url}/x", "Basic dXNlcjpwQHNz")
    ]


def test_no_proxy_excepts_hosts(
    server: Echo, proxy: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("no_proxy", "example.com,127.0.0.1")

    assert ask(server).body == b"GET /x "


def test_a_proxy_that_is_away_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "http://floxhub.invalid"
    question = Asked(f"{url}/x")

    with ports.kept() as port:
        monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{port}")
        transport = Transport(url)
        with pytest.raises(errors.SourceUnreachable, match="proxy cannot be reached") as refusal:
            transport.ask(question, 10_000, WEB, Deadline(PATIENCE))

    assert "s3cret" not in f"{refusal.value!r}{refusal.value.__cause__!r}"


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")

    with pytest.raises(errors.RequestInvalid, match="HTTPS_PROXY variable names no HTTP proxy"):
        Transport("https://hub.example")


@pytest.mark.parametrize(
    "url", ["", "hub.example", "ftp://hub.example", "https://", "https://user:s3cret@hub.example"]
)
def test_what_is_no_url_of_a_floxhub_is_refused(url: str) -> None:
    with pytest.raises(errors.RequestInvalid, match="FloxHub's URL must be like") as refusal:
        Transport(url)

    assert "s3cret" not in str(refusal.value)
