import itertools
import threading

import pytest

from cri_proxy import errors
from cri_proxy.lib import meters
from cri_proxy.store.caches import failover
from hack.testbed import web
from hack.testbed.binary_cache import Publisher
from hack.testbed.web import FileServer, Status


class GivenUp(Exception):
    """What `check` raises when the caller has given up."""


def never():
    """Do not give up."""


def archive_of(offer):
    """Use an offer by reading all of its archive."""
    with offer.open() as body:
        return b"".join(iter(lambda: body.read(1000), b""))


def cache_of(offer):
    """Use an offer by telling whose it is."""
    return offer.cache.url


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch):
    """Caches in tests recover quickly."""
    monkeypatch.setattr(failover, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def sites(tmp_path):
    """Makes caches on sites of their own, with the Priority that each gives itself."""
    servers = []

    def make(priority=40):
        publisher = Publisher(tmp_path / f"site-{len(servers)}", compression="none")
        (publisher.directory / "nix-cache-info").write_text(
            f"StoreDir: /nix/store\nPriority: {priority}\n"
        )
        server = FileServer(publisher.directory)
        server.start()
        servers.append(server)
        return publisher, server

    yield make
    for server in servers:
        server.stop()


def test_path_is_found_over_http_and_its_archive_streams(publisher, server):
    path = publisher.add("thing", {"bin/x": b"x" * 100_000})

    archive = failover.Caches([server.url]).seek(path, archive_of, check=never)

    assert archive == publisher.archive_file(path).read_bytes()
    assert [request.path for request in server.requests] == [
        "/nix-cache-info",
        f"/{path.digest}.narinfo",
        f"/{publisher.narinfo(path).url}",
    ]


def test_path_is_found_in_a_directory(publisher):
    path = publisher.add("thing", b"x" * 100_000)

    archive = failover.Caches([publisher.url]).seek(path, archive_of, check=never)

    assert archive == publisher.archive_file(path).read_bytes()


def test_one_connection_serves_one_request_after_the_other(publisher, server):
    """Misses included: those are read to their end."""
    paths = [publisher.add(f"thing-{n}", b"x" * n) for n in range(5)]
    publisher.remove(paths[2])
    source = failover.Caches([server.url])
    for path in paths:
        try:
            source.seek(path, archive_of, check=never)
        except errors.NotFound:
            continue

    assert server.count() == 10
    assert len({request.port for request in server.requests}) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_miss_goes_on_to_the_next_cache_at_once(sites, status):
    (_, first), (publisher, second) = sites(10), sites(20)
    path = publisher.add("thing", b"x")
    first.fail("*.narinfo", Status(status))

    found = failover.Caches([first.url, second.url]).seek(path, cache_of, check=never)

    assert found == second.url
    assert first.count("*.narinfo") == 1


def test_miss_is_never_remembered(sites):
    publisher, server = sites()
    path = publisher.add("thing", b"x")
    aside = publisher.narinfo_file(path).rename(publisher.directory / "aside")
    source = failover.Caches([server.url])
    with pytest.raises(errors.NotFound):
        source.seek(path, cache_of, check=never)
    aside.rename(publisher.narinfo_file(path))

    assert source.seek(path, cache_of, check=never) == server.url


def test_path_that_nobody_has_names_every_cache_and_its_answer(sites, publisher, tmp_path):
    (_, first), (_, second) = sites(), sites()
    path = publisher.add("thing", b"x")
    (tmp_path / "empty").mkdir()
    second.fail("*.narinfo", Status(403))
    urls = [first.url, second.url, f"file://{tmp_path}/empty"]

    with pytest.raises(errors.NotFound) as caught:
        failover.Caches(urls).seek(path, cache_of, check=never)

    message = str(caught.value)
    assert str(path) in message
    assert f"{first.url}: answered 404" in message
    assert f"{second.url}: answered 403" in message
    assert f"file://{tmp_path}/empty: no such file" in message


def test_no_cache_at_all_is_told(publisher):
    path = publisher.add("thing", b"x")
    with pytest.raises(errors.NotFound, match="no binary cache is configured"):
        failover.Caches([]).seek(path, cache_of, check=never)


def test_lower_priority_is_asked_first_and_the_configured_order_decides_among_equals(sites):
    (low, lower), (high, higher), (_, equal) = sites(10), sites(50), sites(10)
    path = low.add("thing", b"x")
    high.add("thing", b"x")
    urls = [higher.url, lower.url, equal.url]

    assert failover.Caches(urls).seek(path, cache_of, check=never) == lower.url
    assert not higher.count("*.narinfo")
    assert not equal.count("*.narinfo")


def test_information_of_a_cache_is_read_once(publisher, server):
    path = publisher.add("thing", b"x")
    source = failover.Caches([server.url])
    threads = [
        threading.Thread(target=source.seek, args=(path, cache_of), kwargs={"check": never})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert server.count("/nix-cache-info") == 1


def test_cache_without_information_is_a_cache(publisher, server):
    path = publisher.add("thing", b"x")
    (publisher.directory / "nix-cache-info").unlink()

    assert failover.Caches([server.url]).seek(path, cache_of, check=never) == server.url


def test_cache_of_another_store_is_refused(publisher, server):
    path = publisher.add("thing", b"x")
    (publisher.directory / "nix-cache-info").write_text("StoreDir: /opt/store\nPriority: 1\n")

    with pytest.raises(errors.RequestInvalid, match=f"{server.url}: serves the store '/opt/store'"):
        failover.Caches([server.url]).seek(path, cache_of, check=never)
    assert not server.count("*.narinfo")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_trouble_is_tried_again_with_growing_pauses(publisher, server, status):
    retries = meters.COUNTERS["cri_proxy_cache_retries_total"]
    before = retries.values()[()]
    path = publisher.add("thing", b"x")
    server.fail("*.narinfo", Status(status), times=3)

    assert failover.Caches([server.url]).seek(path, cache_of, check=never) == server.url
    assert server.count("*.narinfo") == 4
    assert retries.values()[()] - before == 3


def test_pauses_grow_differ_and_heed_the_cache_within_reason(monkeypatch):
    monkeypatch.undo()
    several = [[failover.pause_of(attempt, 0.0) for _ in range(20)] for attempt in range(3)]

    for pauses, (least, most) in zip(several, [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4)]):
        assert least <= min(pauses) < max(pauses) <= most
    assert failover.pause_of(0, 2.0) == 2.0
    assert (
        failover.pause_of(0, 3600.0) == failover.pause_of(30, 0.0) == failover.LONGEST_PAUSE_SECONDS
    )


def test_trouble_that_does_not_pass_ends_with_the_last_answer(publisher, server):
    path = publisher.add("thing", b"x")
    server.fail("*.narinfo", Status(503))

    with pytest.raises(errors.SourceUnreachable, match=f"{server.url}: answered 503"):
        failover.Caches([server.url]).seek(path, cache_of, check=never)
    assert server.count("*.narinfo") == failover.ATTEMPTS


def test_refusal_that_is_no_trouble_is_not_tried_again(publisher, server):
    path = publisher.add("thing", b"x")
    server.fail("*.narinfo", Status(400))

    with pytest.raises(errors.SourceUnreachable, match="answered 400"):
        failover.Caches([server.url]).seek(path, cache_of, check=never)
    assert server.count("*.narinfo") == 1


def test_stream_that_breaks_off_is_tried_again(publisher, server):
    path = publisher.add("thing", b"x" * 50_000)
    server.fail("/nar/*", web.Truncation(20), times=2)

    archive = failover.Caches([server.url]).seek(path, archive_of, check=never)

    assert archive == publisher.archive_file(path).read_bytes()


def test_dead_cache_is_reported_and_serves_again_once_it_is_back(publisher, server):
    path = publisher.add("thing", b"x")
    source = failover.Caches([server.url])
    server.stop()
    with pytest.raises(errors.SourceUnreachable, match=f"{server.url}: .*refused"):
        source.seek(path, cache_of, check=never)
    server.start()

    assert source.seek(path, cache_of, check=never) == server.url


def test_dead_cache_is_asked_last_and_without_patience_for_a_while(sites):
    (_, dead), (publisher, server) = sites(10), sites(90)
    dead.fail("*", Status(503))
    paths = [publisher.add(f"thing-{n}", b"x" * n) for n in range(5)]
    source = failover.Caches([dead.url, server.url])

    assert {source.seek(path, cache_of, check=never) for path in paths} == {server.url}
    assert dead.count() == 1
    publisher.remove(paths[0])
    with pytest.raises(errors.SourceUnreachable, match=f"{server.url}: answered 404 .*{dead.url}"):
        source.seek(paths[0], cache_of, check=never)
    assert dead.count() == 2


def test_directory_that_is_not_there_is_unreachable(publisher, tmp_path):
    path = publisher.add("thing", b"x")
    with pytest.raises(errors.SourceUnreachable, match="there is no such directory"):
        failover.Caches([f"file://{tmp_path}/absent"]).seek(path, cache_of, check=never)


def test_silent_cache_is_given_up_in_time(publisher, server):
    path = publisher.add("thing", b"x")
    hang = web.Hang()
    server.fail("*.narinfo", hang)

    with pytest.raises(errors.SourceUnreachable, match="timed out"):
        failover.Caches([server.url], silence_seconds=0.2).seek(path, cache_of, check=never)
    server.heal()


@pytest.mark.parametrize(
    "refusal", [errors.ContentDamaged("bad bytes"), errors.SignatureUntrusted("no key")]
)
def test_offer_that_is_refused_goes_on_to_the_next_cache(sites, refusal):
    (publisher, first), (twin, second) = sites(1), sites(2)
    path = publisher.add("thing", b"x")
    twin.add("thing", b"x")
    asked = []

    def refuse_the_first(offer):
        asked.append(offer.cache.url)
        if len(asked) == 1:
            raise refusal
        return offer.cache.url

    found = failover.Caches([first.url, second.url]).seek(path, refuse_the_first, check=never)

    assert found == second.url
    assert asked == [first.url, second.url]


def test_gravest_refusal_names_the_whole_and_the_others_are_told(sites, closed_port):
    (publisher, damaged), (twin, unsigned), (_, empty) = sites(1), sites(2), sites(3)
    path = publisher.add("thing", b"x")
    twin.add("thing", b"x")
    refusals = {
        damaged.url: errors.ContentDamaged("bad bytes"),
        unsigned.url: errors.SignatureUntrusted("no key"),
    }

    def refuse(offer):
        raise refusals[offer.cache.url]

    dead = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(errors.ContentDamaged) as caught:
        failover.Caches([damaged.url, unsigned.url, empty.url, dead]).seek(
            path, refuse, check=never
        )

    for part in (f"{damaged.url}: bad bytes", f"{unsigned.url}: no key", f"{empty.url}: answered"):
        assert part in str(caught.value)
    assert dead in str(caught.value)
    with pytest.raises(errors.SourceUnreachable):
        failover.Caches([unsigned.url, dead]).seek(path, refuse, check=never)
    with pytest.raises(errors.SignatureUntrusted):
        failover.Caches([unsigned.url, empty.url]).seek(path, refuse, check=never)


def test_fault_of_the_node_ends_the_search(sites):
    (publisher, first), (twin, second) = sites(1), sites(2)
    path = publisher.add("thing", b"x")
    twin.add("thing", b"x")

    def refuse(offer):
        raise errors.NodeExhausted("no room")

    with pytest.raises(errors.NodeExhausted):
        failover.Caches([first.url, second.url]).seek(path, refuse, check=never)
    assert not second.count("*.narinfo")


def test_known_offer_is_used_without_asking_again(sites):
    (publisher, first), (twin, second) = sites(1), sites(2)
    path = publisher.add("thing", b"x")
    twin.add("thing", b"x")
    source = failover.Caches([first.url, second.url])
    text = twin.narinfo_file(path).read_text()
    known = source.offer_of(path, second.url, text)

    archive = source.seek(path, archive_of, check=never, known=known)

    assert archive == twin.archive_file(path).read_bytes()
    assert not first.count("*.narinfo")
    assert not second.count("*.narinfo")
    assert source.offer_of(path, "http://elsewhere", text) is None


def test_known_offer_that_is_outdated_is_looked_up_again(publisher, server):
    """The archive has been published anew, under another name, since the survey."""
    publisher.compression = "xz"
    path = publisher.add("thing", b"x" * 5000)
    source = failover.Caches([server.url])
    known = source.offer_of(path, server.url, publisher.narinfo_file(path).read_text())
    publisher.archive_file(path).unlink()
    publisher.compression = "none"
    publisher.publish(path, b"x" * 5000)

    archive = source.seek(path, archive_of, check=never, known=known)

    assert archive == publisher.archive_file(path).read_bytes()


def test_narinfo_without_its_archive_is_damage_and_not_a_miss(publisher, server):
    path = publisher.add("thing", b"x")
    publisher.archive_file(path).unlink()

    with pytest.raises(errors.ContentDamaged, match="has a narinfo but not its archive nar/"):
        failover.Caches([server.url]).seek(path, archive_of, check=never)


def test_giving_up_ends_the_attempts(publisher, server):
    path = publisher.add("thing", b"x")
    server.fail("*.narinfo", Status(503))
    checks = itertools.count()

    def give_up_at_the_second():
        if next(checks) == 1:
            raise GivenUp

    with pytest.raises(GivenUp):
        failover.Caches([server.url]).seek(path, cache_of, check=give_up_at_the_second)
    assert server.count("*.narinfo") == 1


def test_damaged_narinfo_is_the_caches_fault(sites):
    (publisher, first), (twin, second) = sites(1), sites(2)
    path = publisher.add("thing", b"x")
    publisher.narinfo_file(path).write_text("StorePath: nonsense\n")

    with pytest.raises(errors.ContentDamaged, match=first.url):
        failover.Caches([first.url]).seek(path, cache_of, check=never)
    twin.add("thing", b"x")
    assert failover.Caches([first.url, second.url]).seek(path, cache_of, check=never) == second.url


def test_credentials_of_a_url_are_sent_and_never_shown(publisher, server):
    path = publisher.add("thing", b"x")
    server.authorization = "Basic dXNlcjpwQHNz"  # user:p@ss
    url = server.url.replace("http://", "http://user:p%40ss@")

    assert failover.Caches([url]).seek(path, cache_of, check=never) == server.url
    server.authorization = "Basic another"
    with pytest.raises(errors.NotFound, match="answered 401") as caught:
        failover.Caches([url]).seek(path, cache_of, check=never)
    assert "user" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "cache.example", "ftp://x/", "s3://bucket", "http://", "file://host/x", "http://h/?a=b"],
)
def test_url_of_no_cache_is_refused_with_what_to_write(url):
    with pytest.raises(errors.RequestInvalid, match=r"write https://host/path"):
        failover.Caches([url])


def test_proxy_of_the_environment_is_used_unless_it_is_told_not_to(
    publisher, server, closed_port, monkeypatch
):
    """The proxy here is the file server itself: it takes the path of an absolute request."""
    path = publisher.add("thing", b"x")
    monkeypatch.setenv("http_proxy", server.url)
    absent = "http://cache.invalid"
    assert failover.Caches([absent]).seek(path, cache_of, check=never) == absent
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert failover.Caches([server.url]).seek(path, cache_of, check=never) == server.url

    proxied = [request.path.startswith(absent) for request in server.requests]
    assert proxied == [True, True, False, False]


@pytest.fixture
def secure_server(server, certificate):
    """The server with TLS, and the authority that vouches for it."""
    server.speak_tls(*certificate)
    return server.url.replace("http:", "https:"), certificate[0]


def test_authority_of_ones_own_is_trusted_and_no_other(publisher, secure_server):
    url, certificate = secure_server
    path = publisher.add("thing", b"x")

    assert failover.Caches([url], ca_file=certificate).seek(path, cache_of, check=never) == url
    with pytest.raises(errors.SourceUnreachable, match=r"TLS failed: .*certificate verify failed"):
        failover.Caches([url]).seek(path, cache_of, check=never)
