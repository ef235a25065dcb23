import dataclasses

import pytest

from cri_proxy.settings import schema


def test_git_and_api_of_floxhub_follow_from_its_url():
    hub = schema.FloxHubSettings()

    assert hub.git_base == "https://api.flox.dev/git"
    assert hub.api_base == "https://api.flox.dev"


@pytest.mark.parametrize(
    "url", ["https://flox.example.com", "http://127.0.0.1:8080", "https://github.example/hub.x"]
)
def test_a_floxhub_whose_host_is_not_named_hub_has_everything_at_home(url):
    hub = schema.FloxHubSettings(url=url)

    assert hub.git_base == f"{url}/git"
    assert hub.api_base == url


def test_replacing_the_url_of_floxhub_moves_what_follows_from_it():
    hub = dataclasses.replace(schema.FloxHubSettings(), url="http://127.0.0.1:1")

    assert hub.git_base == "http://127.0.0.1:1/git"


def test_urls_of_floxhub_that_were_set_are_not_derived():
    hub = schema.FloxHubSettings(git_url="https://git.example", api_url="https://api.example")

    assert (hub.git_base, hub.api_base) == ("https://git.example", "https://api.example")


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 4), (96, 4)])
def test_workers_are_one_per_core_up_to_four(cores, workers):
    assert schema.StoreSettings().workers_on(cores) == workers
    assert schema.StoreSettings(workers=7).workers_on(cores) == 7
