import asyncio
import contextlib
import socket
import threading

import pytest

from cri_proxy.http import failures, pool
from cri_proxy.http.client import Client, Follow, Request, encoding_of
from cri_proxy.lib.eventloop import Loop

WAIT_SECONDS = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Site:
    """A server that plays what it is told to: a list of answers for each connection in turn."""

    def __init__(self, *plays):
        self.requests = []
        self.connections = 0
        self._plays = plays
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        for play in self._plays:
            try:
                accepted, _ = self.listener.accept()
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
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
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
    return Client(size=4, silence_seconds=WAIT_SECONDS, is_hedging=True)


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


def test_connection_that_was_closed_while_idle_is_replaced(ours, site):
    made = site([OK + b"ok"], [OK + b"ok"])
    assert get(ours, made.url) == (200, b"ok")

    assert get(ours, made.url) == (200, b"ok")
    assert made.connections == 2


def test_answer_that_is_late_is_asked_for_on_another_connection(ours, site, monkeypatch):
    monkeypatch.setattr(pool, "LATE_SECONDS", 0.05)
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"1."

    made = site([slow], [OK + b"2."])

    assert get(ours, made.url) == (200, b"2.")
    assert made.connections == 2
    released.set()


def test_first_answer_is_taken_if_it_comes_although_late(ours, site, monkeypatch):
    monkeypatch.setattr(pool, "LATE_SECONDS", 0.05)
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
    with pytest.raises(failures.Broken, match=reason):
        ours.open(Request(site([answer]).url))


def test_redirection_in_a_circle_ends(ours, site):
    made = site([b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"] * 6)

    with pytest.raises(failures.TooManyRedirects, match="more than 5 times"):
        ours.open(Request(made.url))


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


def test_deadline_covers_the_whole_response(ours, site):
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"ok"

    with pytest.raises(failures.TimedOut, match=r"not done within 0.05 s"):
        ours.ask(Request(site([slow]).url), limit=10, seconds=0.05)
    released.set()


def test_silent_server_is_given_up(site):
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"ok"

    with pytest.raises(failures.TimedOut, match="no answer in time"):
        Client(size=1, silence_seconds=0.05).open(Request(site([slow]).url))
    released.set()


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


def test_request_that_is_cancelled_closes_its_connection(site):
    loop = Loop()
    ours = Client(size=4, loop=loop)
    asked, released = threading.Event(), threading.Event()

    def slow():
        asked.set()
        released.wait(WAIT_SECONDS)
        return OK + b"1."

    made = site([slow], [OK + b"2."])
    future = loop.submit(ours.fetch(Request(made.url), limit=10))
    assert asked.wait(WAIT_SECONDS)
    future.cancel()

    assert get(ours, made.url) == (200, b"2.")
    assert made.connections == 2
    released.set()


def test_request_whose_waiting_is_cancelled_leaves_the_connection_to_others(site):
    """It had none yet: the one that is opened for it is kept."""
    loop = Loop()
    ours = Client(size=4, loop=loop)
    made = site([OK + b"ok"])

    async def give_up():
        task = asyncio.create_task(ours.fetch(Request(made.url), limit=10))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return (await ours.fetch(Request(made.url), limit=10)).body

    assert loop.wait(give_up()) == b"ok"
    assert len(made.requests) == 1


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

    assert encoding_of(ours.open(Request(made.url)).head) == encoding


@pytest.mark.parametrize("said", ["br", "gzip, zstd"])
def test_unknown_encoding_is_refused_by_its_name(ours, site, said):
    made = site([OK.replace(b"\r\n\r\n", f"\r\nContent-Encoding: {said}\r\n\r\n".encode()) + b"ok"])

    with pytest.raises(failures.Broken, match=f"content encoding '{said}', which is not"):
        encoding_of(ours.open(Request(made.url)).head)


def test_request_with_a_body_says_its_length(ours, site):
    made = site([OK + b"ok"])

    ours.ask(Request(made.url, method="PUT", body=b"body"), limit=10, seconds=WAIT_SECONDS)

    assert made.requests[0].startswith(b"PUT / HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 4\r\n" in made.requests[0]


def test_server_that_allows_few_connections_is_used_with_those(site):
    """A connection that is refused while others are open makes its request wait for one of them."""
    made = site([OK + b"1.", OK + b"2.", OK + b"3."])
    loop = Loop()
    ours = Client(size=4, loop=loop)

    async def fetch_all():
        await ours.fetch(Request(made.url), limit=10)
        made.listener.close()
        both = (ours.fetch(Request(made.url), limit=10) for _ in range(2))
        return [each.body for each in await asyncio.gather(*both)]

    assert loop.wait(fetch_all()) == [b"2.", b"3."]
    assert made.connections == 1
