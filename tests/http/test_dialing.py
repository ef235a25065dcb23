"""Caches that are reached through a proxy of the environment's."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

from cri_proxy import errors
from cri_proxy.http import dialing
from cri_proxy.http.client import Client, Request
from cri_proxy.http.dialing import Dialer
from cri_proxy.http.failures import Broken
from cri_proxy.store.caches import cache, failover
from hack.testbed.tunnels import TunnelProxy
from hack.testbed.web import FileServer, Status


def never():
    """What is never given up."""


@pytest.fixture
def secure(server, certificate):
    """The cache with TLS: its URL, and who vouches for it."""
    server.speak_tls(*certificate)
    return server.url.replace("http:", "https:"), certificate[0]


@pytest.fixture
def proxy(monkeypatch):
    """The environment's proxy."""
    with TunnelProxy() as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.place}")
        yield proxy


def sought(secure, path):
    """The URL of the cache that has a path."""
    url, authority = secure
    found = failover.Caches([url], ca_file=authority).seek(
        path, lambda offer: offer.cache.url, check=never
    )
    assert found == url
    return found


def test_https_goes_through_the_proxys_tunnel(publisher, secure, proxy):
    path = publisher.add("thing", b"x")

    place = sought(secure, path).removeprefix("https://")

    assert proxy.asked == [place]  # one tunnel, for nix-cache-info and the narinfo


def test_many_files_come_through_tunnels_at_a_time(publisher, secure, proxy):
    url, authority = secure
    files = {f"file-{n}": b"x" * 20_000 * n for n in range(20)}
    for name, data in files.items():
        (publisher.directory / name).write_bytes(data)
    site = cache.of_url(url, Client(size=8, dialer=Dialer(ca_file=authority)))

    with ThreadPoolExecutor(4) as readers:
        assert list(readers.map(site.read, files)) == list(files.values())

    assert 1 <= len(proxy.asked) <= 4


def test_proxy_is_logged_in_to(publisher, secure, proxy, monkeypatch):
    proxy.authorization = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    path = publisher.add("thing", b"x")
    monkeypatch.setenv("https_proxy", f"http://me:p%40ss@{proxy.place}")

    assert sought(secure, path)


def test_refusal_of_the_proxy_is_told_without_its_login(publisher, secure, proxy, monkeypatch):
    monkeypatch.setattr(failover, "FIRST_PAUSE_SECONDS", 0.0)
    proxy.authorization = "Basic other"
    path = publisher.add("thing", b"x")
    monkeypatch.setenv("https_proxy", f"http://me:secret@{proxy.place}")

    with pytest.raises(errors.SourceUnreachable) as caught:
        sought(secure, path)

    said = f"the proxy http://{proxy.place} answered 407 Proxy Authentication Required"
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_proxy_that_is_gone_is_told(publisher, secure, closed_port, monkeypatch):
    monkeypatch.setattr(failover, "FIRST_PAUSE_SECONDS", 0.0)
    path = publisher.add("thing", b"x")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port}")

    with pytest.raises(errors.SourceUnreachable, match="refused"):
        sought(secure, path)


def test_certificate_is_verified_behind_the_tunnel(publisher, secure, proxy):
    path = publisher.add("thing", b"x")

    with pytest.raises(errors.SourceUnreachable, match=r"TLS failed: .*certificate verify failed"):
        failover.Caches([secure[0]]).seek(path, lambda offer: offer, check=never)


def test_where_a_redirection_leads_a_proxy_is_used_that_is_for_it(
    publisher, server, tmp_path, proxy, monkeypatch
):
    """A cache that NO_PROXY has may redirect to a store of objects that only the proxy reaches."""
    path = publisher.add("thing", b"x")
    with FileServer(tmp_path) as forwarder:
        monkeypatch.setenv("http_proxy", forwarder.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        far = f"http://objects.invalid/{path.digest}.narinfo"
        server.fail("*.narinfo", Status(302, headers={"Location": far}))
        with pytest.raises(errors.NotFound):
            failover.Caches([server.url]).seek(path, lambda offer: offer, check=never)

    assert [request.path for request in forwarder.requests] == [far]


def test_proxy_that_forwards_is_logged_in_to(tmp_path, monkeypatch):
    with FileServer(tmp_path) as forwarder:
        forwarder.answer = lambda request: Status(200, b"forwarded")
        place = forwarder.url.removeprefix("http://")
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{place}")
        fetched = Client(size=1).ask(Request("http://far.invalid/x?y"), limit=100, seconds=60)

    assert fetched.body == b"forwarded"
    (request,) = forwarder.requests
    login = base64.b64encode(b"me:p@ss").decode()
    assert request.path == "http://far.invalid/x?y"
    assert request.headers["proxy-authorization"] == f"Basic {login}"


def test_proxy_may_be_behind_tls_itself(publisher, secure, certificate, tmp_path, monkeypatch):
    """Its tunnels are TLS in TLS then, and what it forwards is in TLS."""
    url, authority = secure
    (publisher.directory / "file").write_bytes(b"there")
    with TunnelProxy() as proxy:
        proxy.speak_tls(*certificate)
        monkeypatch.setenv("https_proxy", f"https://{proxy.place}")
        fetched = Client(size=1, dialer=Dialer(ca_file=authority)).ask(
            Request(f"{url}/file"), limit=100, seconds=60
        )
        assert fetched.body == b"there"
        assert len(proxy.asked) == 1
    (tmp_path / "forwarder").mkdir()
    with FileServer(tmp_path / "forwarder") as forwarder:
        forwarder.speak_tls(*certificate)
        forwarder.answer = lambda request: Status(200, request.path.encode())
        monkeypatch.setenv("http_proxy", forwarder.url)
        fetched = Client(size=1, dialer=Dialer(ca_file=authority)).ask(
            Request("http://far.invalid/x"), limit=100, seconds=60
        )

    assert fetched.body == b"http://far.invalid/x"


async def test_name_is_looked_up_once_for_many_connections(server, monkeypatch):
    lookups = []
    look_up = dialing.socket.getaddrinfo

    def counted(host, *arguments, **options):
        lookups.append(host)
        return look_up("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(dialing.socket, "getaddrinfo", counted)
    dialer, origin = Dialer(), ("http", "cache.invalid", server.port)
    made = await asyncio.gather(*(dialer.dial(origin, None) for _ in range(4)))

    assert all(each.is_open for each in made)
    assert lookups == ["cache.invalid"]
    for each in made:
        each.close(Broken("was closed"))


async def test_authorities_of_the_system_are_loaded_once(secure, monkeypatch):
    loaded = []
    load = dialing.certificates.context

    def counted():
        loaded.append(True)
        return load(file=secure[1])

    monkeypatch.setattr(dialing.certificates, "context", counted)
    port = int(secure[0].rpartition(":")[2])
    dialer = Dialer()
    made = await asyncio.gather(*(dialer.dial(("https", "127.0.0.1", port), None) for _ in "1234"))

    assert len(loaded) == 1
    for each in made:
        each.close(Broken("was closed"))
