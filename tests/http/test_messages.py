import pytest

from cri_proxy.http import messages
from cri_proxy.http.failures import Broken


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://cache", ("http", "cache", 80), "/"),
        ("https://cache/", ("https", "cache", 443), "/"),
        ("https://Cache:8443/a/b.narinfo", ("https", "cache", 8443), "/a/b.narinfo"),
        ("http://cache/x?y=/z", ("http", "cache", 80), "/x?y=/z"),
        ("http://cache?y=/z", ("http", "cache", 80), "/?y=/z"),
        ("http://cache/x#part", ("http", "cache", 80), "/x"),
        ("http://[fd00::1]:81/x//y", ("http", "fd00::1", 81), "/x//y"),
    ],
)
def test_a_url_leads_to_an_origin_and_a_target(url, origin, target):
    assert messages.parts_of(url) == (origin, target)


def test_a_request_names_the_host_and_the_headers_that_were_given():
    request = messages.request_of(("http", "fd00::1", 81), "/x", {"Authorization": "Basic eA=="})

    first, *lines = request.decode().split("\r\n")
    assert first == "GET /x HTTP/1.1"
    assert "Host: [fd00::1]:81" in lines
    assert "Authorization: Basic eA==" in lines
    assert lines[-2:] == ["", ""]


def test_the_port_of_the_scheme_is_not_named():
    assert b"\r\nHost: cache\r\n" in messages.request_of(("https", "cache", 443), "/", {})


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ("/a b", b"/a%20b"),
        ("/a%20b", b"/a%20b"),
        ("/é", b"/%C3%A9"),
        ("/a\r\nX: y", b"/a%0D%0AX:%20y"),
    ],
)
def test_a_target_is_written_so_that_it_ends_no_line(target, written):
    request = messages.request_of(("http", "cache", 80), target, {})

    assert request.startswith(b"GET " + written + b" HTTP/1.1\r\n")
    assert request.count(b"\r\n") == 5


def test_a_head_is_read_by_names_in_lower_case():
    head = b"HTTP/1.1 200 All right\r\nContent-LENGTH:  7 \r\nX-A: 1\r\nX-A: 2"

    assert messages.head_of(head) == (
        b"HTTP/1.1",
        200,
        "All right",
        {"content-length": "7", "x-a": "2"},
    )


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: no name",
        b"HTTP/1.1 200 OK\r\n folded: line",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b",
    ],
)
def test_what_is_no_head_is_refused(head):
    with pytest.raises(Broken):
        messages.head_of(head)


def test_a_tunnel_is_asked_for_with_its_port_and_the_login():
    request = messages.tunnel_of("fd00::1", 443, {"proxy-authorization": "Basic eA=="})

    first, *lines = request.decode().split("\r\n")
    assert first == "CONNECT [fd00::1]:443 HTTP/1.1"
    assert "Host: [fd00::1]:443" in lines
    assert "proxy-authorization: Basic eA==" in lines
