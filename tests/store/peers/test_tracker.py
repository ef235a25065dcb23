import asyncio

import pytest

from cri_proxy.store.peers import tracker
from cri_proxy.store.peers.tracker import Tracker

ONE = "a" * 32


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    return Tracker(clock)


async def turn(book, asker="x:1", within=0.0):
    """Ask for a turn, and do not wait."""
    return await book.turn(ONE, 0, asker=asker, within=within)


async def test_the_first_who_asks_is_sent_to_the_origin_and_the_next_is_not(book):
    first = await turn(book)

    assert first is not None
    assert first.source is None
    assert await turn(book, "y:1") is None


async def test_who_waits_gets_the_path_from_the_first(book):
    first = await turn(book)
    waiting = asyncio.create_task(turn(book, "y:1", within=30))
    await asyncio.sleep(0)
    book.hold([ONE], "x:1")
    book.release(ONE, first)

    assert (await waiting).source == "x:1"


async def test_a_peer_serves_a_few_at_a_time_and_each_that_has_it_serves_others(book):
    book.hold([ONE], "x:1")
    turns = [await turn(book, f"y:{number}") for number in range(tracker.FANOUT)]
    assert {each.source for each in turns} == {"x:1"}
    assert await turn(book, "z:1") is None

    book.hold([ONE], "y:0")

    assert (await turn(book, "z:1")).source == "y:0"


async def test_when_the_first_fails_the_next_is_sent_to_the_origin(book):
    first = await turn(book)
    waiting = asyncio.create_task(turn(book, "y:1", within=30))
    await asyncio.sleep(0)
    book.release(ONE, first)

    assert (await waiting).source is None


async def test_a_turn_that_hangs_is_over_after_what_its_size_allows(book, clock):
    await turn(book)
    clock.now += tracker.TURN_SECONDS + 1

    assert (await turn(book, "y:1")).source is None


async def test_a_peer_that_did_not_give_a_path_is_not_named_again(book):
    book.hold([ONE], "x:1")
    failed = await turn(book, "y:1")
    book.drop(ONE, failed.source)
    book.release(ONE, failed)

    assert (await turn(book, "y:1")).source is None


async def test_nobody_is_sent_to_itself(book):
    book.hold([ONE], "x:1")

    assert (await turn(book, "x:1")).source is None


async def test_what_a_peer_said_long_ago_does_not_count(book, clock):
    book.hold([ONE], "x:1")
    clock.now += tracker.HELD_SECONDS + 1

    assert (await turn(book, "y:1")).source is None


async def test_one_asks_for_a_narinfo_and_the_others_wait_for_what_it_finds(book):
    assert await book.narinfo(ONE) is None
    waiting = asyncio.create_task(book.narinfo(ONE))
    await asyncio.sleep(0)
    book.learn(ONE, b"text")

    assert await waiting == b"text"
    assert await book.narinfo(ONE) == b"text"


async def test_a_narinfo_is_forgotten_after_a_while(book, clock):
    book.learn(ONE, b"text")
    clock.now += tracker.NARINFO_SECONDS + 1

    assert await book.narinfo(ONE) is None


async def test_who_waits_for_a_narinfo_in_vain_asks_for_itself(book, monkeypatch):
    monkeypatch.setattr(tracker, "NARINFO_WAIT_SECONDS", 0.01)
    assert await book.narinfo(ONE) is None

    assert await book.narinfo(ONE) is None


async def test_who_waits_for_a_narinfo_that_is_not_for_everybody_waits_no_longer(book):
    assert await book.narinfo(ONE) is None
    waiting = asyncio.create_task(book.narinfo(ONE))
    await asyncio.sleep(0)
    book.ask_yourselves(ONE)

    assert await waiting is None
