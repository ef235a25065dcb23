import asyncio
import threading

import pytest

from cri_proxy.http import failures, pool
from cri_proxy.http.client import Client, Request
from cri_proxy.lib.eventloop import Loop

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


def test_silent_server_is_given_up(site):
    released = threading.Event()

    def slow():
        released.wait(WAIT_SECONDS)
        return OK + b"ok"

    with pytest.raises(failures.TimedOut, match="no answer in time"):
        Client(size=1, silence_seconds=0.05).open(Request(site([slow]).url))
    released.set()


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


def test_connection_that_stays_idle_is_closed(site, monkeypatch):
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.05)
    made = site([OK + b"1.", OK + b"2."], [OK + b"3."])
    ours = Client(size=4)
    assert get(ours, made.url) == (200, b"1.")
    made.await_end(0)

    assert get(ours, made.url) == (200, b"3.")
    assert made.connections == 2


def test_requests_for_a_server_that_is_gone_leave_nothing_behind(ours, closed_port):
    url = f"http://127.0.0.1:{closed_port}"
    for _ in range(3):
        with pytest.raises(failures.Unconnected, match="refused"):
            ours.open(Request(url))

    destination = ours._pool.destination(("http", "127.0.0.1", closed_port))
    assert not destination._waiting
    assert not destination._dials


def test_late_response_that_fails_leaves_the_race_to_the_other(ours, site, monkeypatch):
    monkeypatch.setattr(pool, "LATE_SECONDS", 0.05)
    doubled = threading.Event()

    def breaks():
        doubled.wait(WAIT_SECONDS)
        return b"nonsense\r\n\r\n"

    def late():
        doubled.set()
        made.await_end(0)
        return OK + b"2."

    made = site([breaks, OK], [late])

    assert get(ours, made.url) == (200, b"2.")


def test_response_that_is_not_being_read_may_be_silent(site):
    """A peer's turn is a response that is held open."""
    released = threading.Event()

    def never():
        released.wait(WAIT_SECONDS)
        return OK

    made = site([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", OK], [never])
    ours = Client(size=2, silence_seconds=0.05)
    held = ours.open(Request(made.url))
    with pytest.raises(failures.TimedOut, match="no answer in time"):  # time has passed
        ours.open(Request(made.url))

    assert held._exchange.connection is not None
    with pytest.raises(failures.TimedOut, match="timed out"):
        held.read(1)
    released.set()
