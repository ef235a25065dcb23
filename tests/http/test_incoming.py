import pytest

from cri_proxy.http.failures import Broken
from cri_proxy.http.incoming import Incoming


def taken(data, size):
    """The body of an answer that comes in pieces of a size, and the answer."""
    incoming, body = Incoming(), b""
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

    with pytest.raises(Broken, match=reason):
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
    with pytest.raises(Broken, match=reason):
        taken(data, 8192)
