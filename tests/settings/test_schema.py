import dataclasses

import pytest

from cri_proxy.settings import Settings, schema


def test_the_defaults_are_settings_that_contradict_nothing():
    assert schema.contradictions_of(Settings()) == []


def test_git_and_api_of_floxhub_follow_from_its_url():
    hub = schema.FloxHub()

    assert hub.git_base == "https://api.flox.dev/git"
    assert hub.api_base == "https://api.flox.dev"


@pytest.mark.parametrize(
    "url", ["https://flox.example.com", "http://127.0.0.1:8080", "https://github.example/hub.x"]
)
def test_a_floxhub_whose_host_is_not_named_hub_has_everything_at_home(url):
    hub = schema.FloxHub(url=url)

    assert hub.git_base == f"{url}/git"
    assert hub.api_base == url


def test_replacing_the_url_of_floxhub_moves_what_follows_from_it():
    hub = dataclasses.replace(schema.FloxHub(), url="http://127.0.0.1:1")

    assert hub.git_base == "http://127.0.0.1:1/git"


def test_urls_of_floxhub_that_were_set_are_not_derived():
    hub = schema.FloxHub(git_url="https://git.example", api_url="https://api.example")

    assert (hub.git_base, hub.api_base) == ("https://git.example", "https://api.example")


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 4), (96, 4)])
def test_workers_are_one_per_core_up_to_four(cores, workers):
    assert schema.Store().workers_on(cores) == workers
    assert schema.Store(workers=7).workers_on(cores) == 7


def test_an_endpoint_for_traces_that_nobody_sends_is_a_contradiction():
    settings = Settings(tracing=schema.Tracing(endpoint="http://localhost:4318"))

    assert "tracing.exporter" in schema.contradictions_of(settings)[0]


def test_the_proxy_cannot_listen_at_the_runtimes_own_socket():
    settings = Settings(serve=schema.Serve(listen=schema.Runtime().endpoint))

    assert "runtime.endpoint" in schema.contradictions_of(settings)[0]


def test_caches_without_a_key_to_trust_are_a_contradiction():
    settings = Settings(store=schema.Store(public_keys=()))

    assert "store.public_keys" in schema.contradictions_of(settings)[0]


def test_the_low_mark_of_the_disk_is_below_the_high_one():
    settings = Settings(garbage=schema.Garbage(high_percent=70, low_percent=70))

    assert "garbage.low_percent" in schema.contradictions_of(settings)[0]
