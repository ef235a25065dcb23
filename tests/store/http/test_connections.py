import contextlib
import select
import socket
import threading

import pytest

from cri_proxy import errors
from cri_proxy.store.http import connections, exchanges, messages
from cri_proxy.store.http.connections import Connections

WAIT_SECONDS = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Site:
    """A server that plays what it is told to: a list of answers for each connection in turn."""

    def __init__(self, *plays):
        self.requests = []
        self.connections = 0
        self._plays = plays
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        for play in self._plays:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted, play))
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted, play):
        with contextlib.suppress(OSError), accepted:
            for answer in play:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = accepted.recv(65536)
                    if not piece:
                        return
                    data += piece
                self.requests.append(data)
                accepted.sendall(answer() if callable(answer) else answer)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join(WAIT_SECONDS)


@pytest.fixture
def site():
    """Makes a site of such plays."""
    with contextlib.ExitStack() as stack:

        def make(*plays):
            made = Site(*plays)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def ours():
    return Connections(ca_file=None, size=4, silence_seconds=WAIT_SECONDS)


def body_of(response):
    return b"".join(iter(lambda: response.read(3), b""))


def get(ours, url):
    response = ours.get(url, {})
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


def test_connection_that_was_closed_while_idle_is_replaced(ours, site):
    made = site([OK + b"ok"], [OK + b"ok"])
    assert get(ours, made.url) == (200, b"ok")

    assert get(ours, made.url) == (200, b"ok")
    assert made.connections == 2


def test_answer_that_is_late_is_asked_for_on_another_connection(ours, site, monkeypatch):
    monkeypatch.setattr(connections, "LATE_SECONDS", 0.05)
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"1."

    made = site([slow], [OK + b"2."])

    assert get(ours, made.url) == (200, b"2.")
    assert made.connections == 2
    released.set()


def test_first_answer_is_taken_if_it_comes_although_late(ours, site, monkeypatch):
    monkeypatch.setattr(connections, "LATE_SECONDS", 0.05)
    doubled, released = threading.Event(), threading.Event()

    def slow():
        doubled.wait(WAIT_SECONDS)
        return OK + b"1."

    def never():
        doubled.set()
        released.wait(WAIT_SECONDS)
        return b""

    made = site([slow], [never])

    assert get(ours, made.url) == (200, b"1.")
    released.set()


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
    with pytest.raises(exchanges.Passing, match=reason):
        ours.get(site([answer]).url, {})


def test_redirection_in_a_circle_ends(ours, site):
    made = site([b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"] * 6)

    with pytest.raises(errors.SourceUnreachable, match="more than 5 times"):
        ours.get(made.url, {})


def test_body_that_breaks_off_is_told(ours, site):
    made = site([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])

    with pytest.raises(messages.Broken, match="6 bytes before the end"):
        get(ours, made.url)


def test_interim_answers_are_passed_over(ours, site):
    made = site([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"ok"])

    assert get(ours, made.url) == (200, b"ok")


def received(exchange):
    """What comes of an exchange's body, whenever there is something."""
    body = b""
    while not exchange.is_over:
        assert select.select([exchange], [], [], WAIT_SECONDS)[0]
        body += exchange.receive()
    return body


def test_only_an_open_connection_that_is_idle_takes_a_request_at_once(ours, site):
    made = site([OK + b"1.", OK + b"2."])
    assert ours.begin(f"{made.url}/a", {}) is None

    ours.widen(made.url)
    exchange = ours.begin(f"{made.url}/a", {})
    assert exchange is not None
    assert ours.begin(f"{made.url}/b", {}) is None
    assert received(exchange) == b"1."

    assert get(ours, f"{made.url}/b") == (200, b"2.")


def test_what_was_begun_waits_for_nothing(ours, site):
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"ok"

    made = site([slow])
    ours.widen(made.url)
    exchange = ours.begin(made.url, {})

    with pytest.raises(BlockingIOError):
        exchange.receive()

    released.set()
    assert received(exchange) == b"ok"
    assert (exchange.status, exchange.reason) == (200, "OK")


def test_connection_that_was_closed_while_idle_is_stale_for_what_is_begun(ours, site):
    made = site([OK + b"ok"])
    assert get(ours, made.url) == (200, b"ok")

    exchange = ours.begin(made.url, {})
    assert select.select([exchange], [], [], WAIT_SECONDS)[0]
    with pytest.raises(exchanges.Stale):
        exchange.receive()
    exchange.close()
