import itertools
import urllib.request

import pytest

from cri_proxy import errors
from cri_proxy.lib.proxies import Proxies

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def of(url: str) -> str | None:
    proxy = Proxies().of(url)
    return None if proxy is None else proxy.url


def test_without_variables_everything_is_reached_directly() -> None:
    assert of("https://cache.example") is None


def test_a_proxy_is_for_urls_of_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)

    assert of("https://cache.example/nar") == PROXY
    assert of("http://cache.example/nar") is None


def test_the_proxy_for_all_is_for_schemes_without_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("HTTP_PROXY", "http://plain.example")

    assert of("https://cache.example") == PROXY
    assert of("http://cache.example") == "http://plain.example"


def test_lower_case_wins_and_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("http_proxy", "http://other.example")
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("https_proxy", "")

    assert of("http://cache.example") == "http://other.example"
    assert of("https://cache.example") is None


@pytest.mark.parametrize("value", ["proxy.example:3128", PROXY])
def test_a_proxy_needs_no_scheme(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("http_proxy", value)

    assert of("http://cache.example") == PROXY


def test_the_login_stands_apart_from_the_url_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:p%40ss@proxy.example:3128")

    proxy = Proxies().of("http://cache.example")

    assert proxy is not None
    assert proxy.url == PROXY
    assert proxy.headers == {"proxy-authorization": "Basic dXNlcjpwQHNz"}
    assert "dXNl" not in repr(proxy)


@pytest.mark.parametrize(
    ("url", "excepted"),
    [
        ("http://cache.example", "cache.example"),
        ("http://a.cache.example", "cache.example"),
        ("http://a.cache.example", ".cache.example"),
        ("http://CACHE.example", "other, Cache.Example"),
        ("http://cache.example:8080", "cache.example"),
        ("http://cache.example:8080", "cache.example:8080"),
        ("http://user:word@cache.example", "cache.example"),
        ("http://10.0.0.1:80", "10.0.0.1"),
        ("http://[fd00::1]:80", "fd00::1"),
        ("http://[fd00::1]", "[fd00::1]"),
        ("http://10.1.2.3", "cache.example, 10.0.0.0/8"),
        ("http://10.1.2.3:8080", "10.9.9.9/8"),
        ("http://[fd00::1]:80", "fd00::/8"),
        ("http://cache.example", "*"),
    ],
)
def test_what_is_excepted_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, url: str, excepted: str
) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", excepted)

    assert of(url) is None


@pytest.mark.parametrize(
    ("url", "excepted"),
    [
        ("http://cache.example", ""),
        ("http://cache.example", "ache.example"),
        ("http://cache.example:8080", "cache.example:80"),
        ("http://cache.example.org", "cache.example"),
        ("http://11.1.2.3", "10.0.0.0/8"),
        ("http://10.1.2.3", "fd00::/8"),
        ("http://10.1.2.3", "10.0.0.0/99, /, 10.1/x"),
        ("http://10.example", "10.0.0.0/8"),
    ],
)
def test_what_is_not_excepted_goes_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, excepted: str
) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", excepted)

    assert of(url) == PROXY


def test_the_answers_are_those_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ["a.example", "b.a.example", "a.example:80", "127.0.0.1", "localhost:8080", "example"]
    exceptions = [
        "a.example",
        ".example",
        "*",
        "*, a.example",
        "localhost",
        "127.0.0.1,example",
        ",",
    ]
    monkeypatch.setenv("http_proxy", PROXY)
    for host, excepted in itertools.product(hosts, exceptions):
        monkeypatch.setenv("no_proxy", excepted)

        assert (of(f"http://{host}/x") is None) == bool(urllib.request.proxy_bypass(host))


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://"])
def test_what_is_no_http_proxy_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("https_proxy", value.replace("//", "//user:s3cret@"))

    with pytest.raises(errors.RequestInvalid, match="HTTPS_PROXY variable names no") as refusal:
        of("https://cache.example")

    assert "s3cret" not in str(refusal.value)


def test_a_proxy_that_is_not_used_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "cache.example")

    assert of("https://cache.example") is None
