import select
import threading

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled
from cri_proxy.store.caches import cache, volley
from cri_proxy.store.caches.volley import Question
from cri_proxy.store.http import connections
from hack.testbed import web
from hack.testbed.web import FileServer

WAIT_SECONDS = 60


@pytest.fixture
def reach():
    """Makes a site of a server's."""
    ours = connections.Connections(ca_file=None, size=8)
    return lambda server: cache.of_url(server.url, ours)


def question(name, sites, insist=None):
    def refuse(check):
        raise errors.SourceUnreachable(f"insisted on {name}")

    places = volley.places_of(sites, name)
    return Question(name, places, lambda source, data: data, insist or refuse)


def outcomes_of(fired, count):
    found = {}
    while len(found) < count:
        found |= {asked.key: outcome for asked, outcome in fired.answers()}
        if len(found) < count:
            select.select([fired], [], [], volley.LOOK_SECONDS)
    return found


def test_files_come_with_few_connections(publisher, server, reach, fire):
    files = {f"file-{n}": b"x" * 20_000 * n for n in range(20)}
    for name, data in files.items():
        (publisher.directory / name).write_bytes(data)

    with fire() as fired:
        for name in files:
            fired.ask(question(name, [reach(server)]))
        found = outcomes_of(fired, 20)

    assert found == files
    assert server.peak <= 4


def test_miss_goes_on_to_the_next_cache(publisher, server, reach, fire, tmp_path):
    (publisher.directory / "file").write_bytes(b"there")
    (tmp_path / "empty").mkdir()
    near = cache.of_url(
        (tmp_path / "empty").as_uri(), connections.Connections(ca_file=None, size=1)
    )
    with FileServer(tmp_path / "empty") as empty, fire() as fired:
        fired.ask(question("file", [near, reach(empty), reach(server)]))

        assert outcomes_of(fired, 1) == {"file": b"there"}


def test_file_that_no_cache_has_is_insisted_on(server, reach, fire):
    with fire() as fired:
        fired.ask(question("file", [reach(server)]))
        (outcome,) = outcomes_of(fired, 1).values()

    assert str(outcome) == "insisted on file"


def test_site_out_of_reach_is_insisted_on(server, reach, fire):
    site = reach(server)
    server.stop()

    with fire() as fired:
        fired.ask(question("file", [site], insist=lambda check: b"in another way"))

        assert outcomes_of(fired, 1) == {"file": b"in another way"}


def test_answer_that_pauses_holds_up_no_other(publisher, server, reach, fire):
    for n in range(8):
        (publisher.directory / f"file-{n}").write_bytes(b"x" * n)
    hang = web.Hang()
    server.fail("/file-7", hang)

    with fire() as fired:
        for n in reversed(range(8)):
            fired.ask(question(f"file-{n}", [reach(server)]))
        assert set(outcomes_of(fired, 7)) == {f"file-{n}" for n in range(7)}

        server.heal()
        assert outcomes_of(fired, 1) == {"file-7": b"x" * 7}


def test_late_answer_is_insisted_on_and_the_sooner_one_is_taken(
    publisher, server, reach, fire, monkeypatch
):
    monkeypatch.setattr(connections, "LATE_SECONDS", 0.05)
    (publisher.directory / "file").write_bytes(b"late")
    server.fail("/file", web.Hang())

    with fire() as fired:
        fired.ask(question("file", [reach(server)], insist=lambda check: b"in another way"))

        assert outcomes_of(fired, 1) == {"file": b"in another way"}
    server.heal()


def test_late_answer_is_taken_if_it_comes_before_the_other(
    publisher, server, reach, fire, monkeypatch
):
    monkeypatch.setattr(connections, "LATE_SECONDS", 0.05)
    (publisher.directory / "file").write_bytes(b"late")
    server.fail("/file", web.Hang())
    ended = threading.Event()

    def insist(check):
        server.heal()
        while not ended.wait(0.01):
            try:
                check()
            except Cancelled:
                ended.set()
                raise
        raise AssertionError("nobody told it to end")

    with fire() as fired:
        fired.ask(question("file", [reach(server)], insist=insist))

        assert outcomes_of(fired, 1) == {"file": b"late"}
    assert ended.wait(WAIT_SECONDS)


def test_question_on_a_connection_that_was_closed_while_idle_is_sent_again(
    publisher, server, reach, fire
):
    (publisher.directory / "file").write_bytes(b"there")
    site = reach(server)
    site.widen()
    server.stop()
    server.start()

    with fire() as fired:
        fired.ask(question("file", [site]))

        assert outcomes_of(fired, 1) == {"file": b"there"}


def test_answers_are_used_some_at_a_time(publisher, server, reach, fire):
    files = {f"file-{n}": b"x" * n for n in range(6)}
    for name, data in files.items():
        (publisher.directory / name).write_bytes(data)

    with fire() as fired:
        for name in files:
            fired.ask(question(name, [reach(server)]))
        found = {}
        while len(found) < 6:
            select.select([fired], [], [], volley.LOOK_SECONDS)
            came = fired.answers(at_most=1)
            assert len(came) <= 1
            found |= {asked.key: outcome for asked, outcome in came}

    assert found == files
