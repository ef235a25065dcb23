import contextlib
import gzip
import sys
import threading

import pytest

from cri_proxy import errors
from cri_proxy.http.client import Client
from cri_proxy.lib import meters
from cri_proxy.store.caches import cache
from hack.testbed import web
from hack.testbed.web import FileServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture
def site(server):
    return cache.of_url(server.url, Client(size=4))


@pytest.fixture
def directory(publisher):
    return cache.of_url(publisher.url, Client(size=4))


@pytest.mark.parametrize("kind", ["site", "directory"])
def test_both_kinds_offer_the_same(request, kind, publisher):
    path = publisher.add("thing", b"x" * 1000)
    offer = request.getfixturevalue(kind).lookup(path)

    assert offer.narinfo == publisher.narinfo(path)
    with offer.open() as body:
        assert body.read(10**9) == publisher.archive_file(path).read_bytes()
        assert body.read(1) == b""


@pytest.mark.parametrize("kind", ["site", "directory"])
def test_small_file_that_is_too_large_is_refused(request, kind, publisher):
    (publisher.directory / "large").write_bytes(bytes(cache.SMALL_BYTES + 1))

    with pytest.raises(errors.ContentDamaged, match="larger than"):
        request.getfixturevalue(kind).read("large")


@pytest.mark.parametrize(
    ("text", "priority"),
    [
        ("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n", 10),
        ("Priority: 30", 30),
        ("Priority: soon\n", 50),
        ("", 50),
    ],
)
def test_priority_is_what_the_cache_says_or_that_of_nix(publisher, site, text, priority):
    (publisher.directory / "nix-cache-info").write_text(text)
    assert site.priority > 50  # it is asked last until it has said when

    site.learn_priority()

    assert site.priority == priority


def test_threads_share_one_refusal_of_a_dead_cache(server, site):
    """Else each would wait for its own timeout, one after the other."""
    hang = web.Hang()
    server.fail("/nix-cache-info", web.Status(503))
    server.fail("/hold", hang)
    refusals, barrier = [], threading.Barrier(8)
    server.delay_seconds = 0.2

    def greet():
        barrier.wait(60)
        try:
            site.greet()
        except errors.SourceUnreachable as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=greet) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert refusals == ["answered 503 Service Unavailable"] * 8
    assert server.count("/nix-cache-info") == 1


def test_server_may_ask_for_a_pause(tmp_path, site, server):
    server.fail("*", web.Status(429))
    with pytest.raises(cache.Passing) as caught:
        site.read("x")

    assert caught.value.pause == 0.0
    assert isinstance(caught.value, errors.SourceUnreachable)


def test_credentials_do_not_follow_a_redirection(publisher, server, tmp_path):
    """A cache may send its archives from elsewhere, which is not to learn the password."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("there")
    with FileServer(tmp_path / "elsewhere") as elsewhere:
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/x"
        server.fail("/moved", web.Status(302, b"", {"Location": target}))
        url = server.url.replace("http://", "http://user:secret@")
        site = cache.of_url(url, Client(size=4))

        assert site.read("moved") == b"there"
        assert server.requests[-1].headers["authorization"].startswith("Basic ")
        assert "authorization" not in elsewhere.requests[0].headers


ENCODED = {"gzip": gzip.compress, "zstd": zstd.compress}


@pytest.fixture
def encoding(server):
    """Has the server send its files with a Content-Encoding."""

    def encode(name):
        def answer(request):
            data = ENCODED[name](server.file_of(request.path).read_bytes())
            return web.Status(200, data, {"Content-Encoding": name})

        server.answer = answer

    return encode


@pytest.mark.parametrize("name", ENCODED)
def test_files_may_come_encoded(publisher, site, encoding, name, loop):
    path = publisher.add("thing", b"x" * 1000)
    encoding(name)
    offer = site.lookup(path)

    assert offer.narinfo == publisher.narinfo(path)
    with offer.open() as body:
        assert body.read(10**9) == publisher.archive_file(path).read_bytes()


@pytest.mark.parametrize("name", ENCODED)
def test_encoded_file_is_bounded_by_what_it_holds(publisher, server, encoding, name, loop):
    """Four megabytes of zeros are some kilobytes on their way."""
    (publisher.directory / "large").write_bytes(bytes(cache.SMALL_BYTES + 1))
    encoding(name)
    site = cache.of_url(server.url, Client(size=1, loop=loop))

    with pytest.raises(errors.ContentDamaged, match="larger than"):
        site.read("large")
    with pytest.raises(errors.ContentDamaged, match="larger than"):
        loop.wait(site.fetch("large"))


def test_damaged_encoding_is_damage(publisher, server, loop):
    server.fail("/x", web.Status(200, b"no gzip", {"Content-Encoding": "gzip"}))
    site = cache.of_url(server.url, Client(size=1, loop=loop))

    with pytest.raises(errors.ContentDamaged, match=r"x .sent with Content-Encoding: gzip. is dam"):
        loop.wait(site.fetch("x"))


def test_unknown_encoding_is_refused_by_its_name(publisher, server, loop):
    server.fail("/x", web.Status(200, b"x", {"Content-Encoding": "br"}))
    site = cache.of_url(server.url, Client(size=1, loop=loop))

    with pytest.raises(errors.SourceUnreachable, match="content encoding 'br'"):
        loop.wait(site.fetch("x"))
    with pytest.raises(errors.SourceUnreachable, match="content encoding 'br'"):
        site.read("x")


def outcomes():
    """Return how many requests had each outcome so far."""
    return meters.COUNTERS["cri_proxy_cache_requests_total"].values()


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_requests_are_counted_by_outcome(publisher, server, loop, is_asynchronous):
    site = cache.of_url(server.url, Client(size=1, loop=loop))
    (publisher.directory / "there").write_bytes(b"x")
    server.fail("/broken", web.Status(500))
    before = outcomes()
    for name in ("there", "absent", "broken", "gone"):
        if name == "gone":
            server.stop()
        with contextlib.suppress(errors.CriProxyError):
            loop.wait(site.fetch(name)) if is_asynchronous else site.read(name)

    after = outcomes()
    assert {labels: count - before.get(labels, 0) for labels, count in after.items()} == {
        ("found",): 1,
        ("missing",): 1,
        ("failed",): 1,
        ("unreachable",): 1,
    }
