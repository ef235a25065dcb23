import threading

import pytest

from cri_proxy.http import failures
from cri_proxy.http.client import Follow, Request, encoding_of

WAIT_SECONDS = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "instead of HTTP"),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "for a header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two headers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "a length of"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer encoding"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "not followed"),
        (b"HTTP/1.1 200 OK\r\n", "in the head"),
        (b"", "without an answer"),
    ],
)
def test_what_is_no_answer_is_told(ours, site, answer, reason):
    with pytest.raises(failures.Broken, match=reason):
        ours.open(Request(site([answer]).url))


def test_redirection_in_a_circle_ends(ours, site):
    made = site([b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"] * 6)

    with pytest.raises(failures.TooManyRedirects, match="more than 5 times"):
        ours.open(Request(made.url))


def test_deadline_covers_the_whole_response(ours, site):
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"ok"

    with pytest.raises(failures.TimedOut, match=r"not done within 0.05 s"):
        ours.ask(Request(site([slow]).url), limit=10, seconds=0.05)
    released.set()


def test_one_rule_for_credentials_where_a_redirect_leads(ours, site):
    """They are dropped on another origin, and stay dropped where that one leads back."""
    far = site([redirect := bytearray(), OK + b"ok"])
    near = site(
        [f"HTTP/1.1 302 Found\r\nLocation: {far.url}/x\r\nContent-Length: 0\r\n\r\n".encode()],
        [OK + b"ok"],
    )
    redirect += f"HTTP/1.1 307 T\r\nLocation: {far.url}/y\r\nContent-Length: 0\r\n\r\n".encode()

    fetched = ours.ask(
        Request(near.url, {"Authorization": "Basic x"}), limit=10, seconds=WAIT_SECONDS
    )

    assert (fetched.body, fetched.url) == (b"ok", f"{far.url}/y")
    assert b"Authorization" in near.requests[0]
    assert not any(b"Authorization" in each for each in far.requests)


def test_redirect_within_an_origin_keeps_credentials(ours, site):
    made = site([b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", OK + b"ok"])

    ours.ask(
        Request(made.url, {"Authorization": "Basic x"}, follow=Follow.ORIGIN),
        limit=10,
        seconds=WAIT_SECONDS,
    )

    assert all(b"Authorization: Basic x" in each for each in made.requests)
    assert made.requests[1].startswith(b"GET /x ")


@pytest.mark.parametrize("location", ["http://elsewhere.invalid/", "https://127.0.0.1/"])
def test_redirect_elsewhere_may_be_refused(ours, site, location):
    made = site([f"HTTP/1.1 302 F\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()])

    with pytest.raises(failures.RedirectRefused) as caught:
        ours.open(Request(made.url, follow=Follow.ORIGIN))

    assert caught.value.url == location


def test_redirect_of_a_body_is_never_followed(ours, site):
    made = site([b"HTTP/1.1 307 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"])

    with pytest.raises(failures.RedirectRefused):
        ours.open(Request(made.url, method="POST", body=b"x"))
    assert len(made.requests) == 1


def test_redirect_may_be_the_response(ours, site):
    made = site([b"HTTP/1.1 301 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"])

    assert ours.open(Request(made.url, follow=Follow.NONE)).status == 301


@pytest.mark.parametrize(
    ("said", "encoding"), [("gzip", "gzip"), ("X-GZip", "gzip"), ("zstd", "zstd"), ("identity", "")]
)
def test_encodings_are_named(ours, site, said, encoding):
    made = site([OK.replace(b"\r\n\r\n", f"\r\nContent-Encoding: {said}\r\n\r\n".encode()) + b"ok"])

    assert encoding_of(ours.open(Request(made.url))) == encoding


@pytest.mark.parametrize("said", ["br", "gzip, zstd"])
def test_unknown_encoding_is_refused_by_its_name(ours, site, said):
    made = site([OK.replace(b"\r\n\r\n", f"\r\nContent-Encoding: {said}\r\n\r\n".encode()) + b"ok"])

    with pytest.raises(failures.Broken, match=f"content encoding '{said}', which is not"):
        encoding_of(ours.open(Request(made.url)))


def test_request_with_a_body_says_its_length(ours, site):
    made = site([OK + b"ok"])

    ours.ask(Request(made.url, method="PUT", body=b"body"), limit=10, seconds=WAIT_SECONDS)

    assert made.requests[0].startswith(b"PUT / HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 4\r\n" in made.requests[0]
