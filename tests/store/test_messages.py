import pytest

from cri_proxy.store import messages


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
    with pytest.raises(messages.Broken):
        messages.head_of(head)


def taken(data, size):
    """The body of an answer that comes in pieces of a size, and the answer."""
    incoming, body = messages.Incoming(), b""
    for start in range(0, len(data), size):
        body += incoming.take(data[start : start + size])
    return body, incoming


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4;x=y\r\nfour\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
)
WHOLE = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [(CHUNKED, 200, b"four0123456789abcdef"), (WHOLE, 404, b"body")],
)
def test_an_answer_may_come_in_any_pieces(data, status, body, size):
    found, incoming = taken(data, size)

    assert (incoming.status, found) == (status, body)
    assert incoming.is_over
    assert incoming.is_kept


@pytest.mark.parametrize("data", [CHUNKED, WHOLE])
def test_a_connection_on_which_more_came_than_was_asked_for_is_not_kept(data):
    found, incoming = taken(data + b"more", 1000)

    assert not found.endswith(b"more")
    assert incoming.is_over
    assert not incoming.is_kept


def test_a_body_without_a_length_ends_when_no_more_comes():
    found, incoming = taken(b"HTTP/1.1 200 OK\r\n\r\nall of it", 5)
    assert found == b"all of it"
    assert not incoming.is_over

    incoming.end()

    assert incoming.is_over
    assert not incoming.is_kept


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200", "in the head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo", "2 bytes before the end"),
        (CHUNKED[:-2], "before the last chunk"),
    ],
)
def test_an_answer_that_breaks_off_is_told(data, reason):
    _, incoming = taken(data, 1000)

    with pytest.raises(messages.Broken, match=reason):
        incoming.end()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD + b"-1\r\n", "without a size"),
        (HEAD + b"0x1\r\n", "without a size"),
        (HEAD + b"\r\n", "without a size"),
        (HEAD + b"1\r\nab\r\n", "another size"),
        (HEAD + b"1" * 70_000, "no end of the line"),
        (HEAD + b"0\r\n" + b"X: y\r\n" * 20_000, "trailers without an end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000, "interim answers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "without an end"),
    ],
)
def test_framing_that_is_none_or_never_ends_is_told(data, reason):
    with pytest.raises(messages.Broken, match=reason):
        taken(data, 8192)
