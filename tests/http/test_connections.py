import pytest

from cri_proxy.http import failures
from cri_proxy.http.client import Request

WAIT_SECONDS = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def body_of(response):
    return b"".join(iter(lambda: response.read(3), b""))


def get(ours, url):
    response = ours.open(Request(url))
    try:
        return response.status, body_of(response)
    finally:
        response.close()


def test_chunks_are_joined_and_their_connection_is_used_again(ours, site):
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4;x=y\r\nfour\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
    )
    made = site([chunked, OK + b"ok"])

    assert get(ours, f"{made.url}/a") == (200, b"four0123456789abcdef")
    assert get(ours, f"{made.url}/b?c=d") == (200, b"ok")
    assert made.connections == 1
    assert made.requests[1].startswith(b"GET /b?c=d HTTP/1.1\r\nHost: 127.0.0.1:")


def test_body_without_a_length_ends_with_its_connection(ours, site):
    made = site([b"HTTP/1.1 200 OK\r\n\r\nall of it"], [OK + b"ok"])

    assert get(ours, made.url) == (200, b"all of it")
    assert get(ours, made.url) == (200, b"ok")
    assert made.connections == 2


def test_body_that_breaks_off_is_told(ours, site):
    made = site([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])

    with pytest.raises(failures.Broken, match="6 bytes before the end"):
        get(ours, made.url)


def test_interim_answers_are_passed_over(ours, site):
    made = site([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"ok"])

    assert get(ours, made.url) == (200, b"ok")


def test_whole_body_is_bounded(ours, site):
    made = site([OK + b"ok"])

    with pytest.raises(failures.TooLarge, match="larger than 1 bytes"):
        ours.ask(Request(made.url), limit=1, seconds=WAIT_SECONDS)


def test_body_that_is_not_read_stops_the_connection_and_then_comes_whole(ours, site):
    """No more than some megabytes are held for a reader that does something else."""
    size = 30_000_000
    made = site([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)])

    response = ours.open(Request(made.url))
    piece = response.read(1000)
    held = len(piece)
    while chunk := response.read(1_000_000):
        assert response._stream._size <= 4 * 1024 * 1024
        held += len(chunk)

    assert held == size


def test_response_that_is_closed_early_closes_its_connection(ours, site):
    size = 30_000_000
    made = site(
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)], [OK + b"ok"]
    )
    response = ours.open(Request(made.url))
    response.read(1000)
    response.close()

    assert get(ours, made.url) == (200, b"ok")
    assert made.connections == 2
