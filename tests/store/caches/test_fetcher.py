import threading

import pytest

from cri_proxy import errors
from cri_proxy.http import pool
from cri_proxy.http.client import Client
from cri_proxy.lib.job import Cancelled
from cri_proxy.store.caches import cache
from cri_proxy.store.caches.fetcher import Wanted
from hack.testbed import web
from hack.testbed.web import FileServer

WAIT_SECONDS = 60


@pytest.fixture
def reach(loop):
    """Makes a site of a server's."""
    ours = Client(size=8, loop=loop, is_hedging=True)
    return lambda server: cache.of_url(server.url, ours)


def wanted(name, sites, fallback=None):
    def refuse(check):
        raise errors.SourceUnreachable(f"fell back for {name}")

    return Wanted(name, sites, name, lambda source, data: data, fallback or refuse)


async def outcomes_of(files, count):
    found = {}
    while len(found) < count:
        await files.arrival(WAIT_SECONDS)
        found |= {asked.key: outcome for asked, outcome in files.outcomes(at_most=100)}
    return found


def test_files_come_with_few_connections(publisher, server, reach, fetching):
    contents = {f"file-{n}": b"x" * 20_000 * n for n in range(20)}
    for name, data in contents.items():
        (publisher.directory / name).write_bytes(data)

    @fetching
    async def found(files):
        for name in contents:
            files.ask(wanted(name, [reach(server)]))
        return await outcomes_of(files, 20)

    assert found == contents
    assert server.peak <= 4


def test_miss_goes_on_to_the_next_cache(publisher, server, reach, fetching, tmp_path):
    (publisher.directory / "file").write_bytes(b"there")
    (tmp_path / "empty").mkdir()
    near = cache.of_url((tmp_path / "empty").as_uri(), Client(size=1))
    with FileServer(tmp_path / "empty") as empty:

        @fetching
        async def found(files):
            files.ask(wanted("file", [near, reach(empty), reach(server)]))
            return await outcomes_of(files, 1)

        assert found == {"file": b"there"}


def test_file_that_no_cache_has_is_left_to_its_fallback(server, reach, fetching):
    @fetching
    async def found(files):
        files.ask(wanted("file", [reach(server)]))
        return await outcomes_of(files, 1)

    assert str(found["file"]) == "fell back for file"


def test_site_out_of_reach_is_left_to_the_fallback(server, reach, fetching):
    site = reach(server)
    server.stop()

    @fetching
    async def found(files):
        files.ask(wanted("file", [site], fallback=lambda check: b"in another way"))
        return await outcomes_of(files, 1)

    assert found == {"file": b"in another way"}


def test_answer_that_pauses_holds_up_no_other(publisher, server, reach, fetching):
    for n in range(8):
        (publisher.directory / f"file-{n}").write_bytes(b"x" * n)
    server.fail("/file-7", web.Hang())

    @fetching
    async def found(files):
        for n in reversed(range(8)):
            files.ask(wanted(f"file-{n}", [reach(server)]))
        first = await outcomes_of(files, 7)
        server.heal()
        return first, await outcomes_of(files, 1)

    assert set(found[0]) == {f"file-{n}" for n in range(7)}
    assert found[1] == {"file-7": b"x" * 7}


def test_late_answer_is_asked_for_again_and_the_sooner_one_is_taken(
    publisher, server, reach, fetching, monkeypatch
):
    monkeypatch.setattr(pool, "LATE_SECONDS", 0.05)
    (publisher.directory / "file").write_bytes(b"there")
    server.fail("/file", web.Hang(), times=1)

    @fetching
    async def found(files):
        files.ask(wanted("file", [reach(server)]))
        return await outcomes_of(files, 1)

    assert found == {"file": b"there"}
    assert server.count("/file") == 2
    server.heal()


def test_late_answer_is_taken_if_it_comes_before_the_other(
    publisher, server, reach, fetching, monkeypatch
):
    monkeypatch.setattr(pool, "LATE_SECONDS", 0.05)
    (publisher.directory / "file").write_bytes(b"late")
    first, second = web.Hang(), web.Hang()
    server.fail("/file", first, times=1)
    server.fail("/file", second, times=1)

    def heal():
        with server.changed:
            server.changed.wait_for(lambda: len(server._requests) == 2, WAIT_SECONDS)
        first.released.set()

    healing = threading.Thread(target=heal)
    healing.start()

    @fetching
    async def found(files):
        files.ask(wanted("file", [reach(server)]))
        return await outcomes_of(files, 1)

    healing.join(WAIT_SECONDS)
    assert found == {"file": b"late"}
    second.released.set()


def test_fallback_ends_when_its_job_does(server, reach, fetching):
    begun, ended = threading.Event(), threading.Event()

    def fall_back(check):
        begun.set()
        while not ended.wait(0.01):
            try:
                check()
            except Cancelled:
                ended.set()
                raise
        raise AssertionError("it was to go on until its job ended")

    @fetching
    async def found(files):
        files.ask(wanted("absent", [reach(server)], fallback=fall_back))
        while not begun.is_set():
            await files.arrival(0.01)
        return "ended before"

    assert found == "ended before"
    assert ended.wait(WAIT_SECONDS)


def test_file_on_a_connection_that_was_closed_while_idle_is_asked_for_again(
    publisher, server, reach, fetching
):
    (publisher.directory / "file").write_bytes(b"there")
    site = reach(server)
    site.read("file")
    server.stop()
    server.start()

    @fetching
    async def found(files):
        files.ask(wanted("file", [site]))
        return await outcomes_of(files, 1)

    assert found == {"file": b"there"}


def test_files_are_used_some_at_a_time(publisher, server, reach, fetching):
    contents = {f"file-{n}": b"x" * n for n in range(6)}
    for name, data in contents.items():
        (publisher.directory / name).write_bytes(data)

    @fetching
    async def found(files):
        for name in contents:
            files.ask(wanted(name, [reach(server)]))
        found = {}
        while len(found) < 6:
            await files.arrival(WAIT_SECONDS)
            came = files.outcomes(at_most=1)
            assert len(came) <= 1
            found |= {asked.key: outcome for asked, outcome in came}
        return found

    assert found == contents


def test_job_that_ends_asks_for_nothing_more(publisher, server, reach, fetching):
    server.fail("*", web.Hang())
    for n in range(12):
        (publisher.directory / f"file-{n}").write_bytes(b"x")

    @fetching
    async def _(files):
        for n in range(12):
            files.ask(wanted(f"file-{n}", [reach(server)]))
        while server.count() < 4:
            await files.arrival(0.01)

    server.heal()
    reach(server).read("file-0")  # over another connection: those of the job are closed

    assert server.count() <= 5
