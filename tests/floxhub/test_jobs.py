"""FloxHub's jobs as a worker does them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.floxhub import jobs, protocol
from cri_proxy.floxhub.protocol import CatalogGrant, CatalogQuery, HubOptions, Resolve
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.model import references, storepaths
from hack.testbed.floxhub import FloxHub
from tests.floxhub.conftest import TIMEOUT_SECONDS, lockfile

APP = storepaths.parse("/nix/store/0v4gz9k1dwxr5wgnfxwh1sjv5jk0m7bp-app-2.0")
WEB = references.parse("alice/web")


@pytest.fixture
def made(local: FloxHub, tmp_path: Path) -> Jobs:
    """The jobs for a FloxHub of one kind."""
    return jobs.jobs(
        HubOptions(tmp_path / "node", local.git_url, local.api_url, TIMEOUT_SECONDS, None)
    )


@pytest.fixture
def task() -> Task[None]:
    return Task(lambda report: None)


def test_a_reference_is_resolved_to_a_lockfile_on_this_node(
    local: FloxHub, made: Jobs, task: Task[None]
) -> None:
    local.push("alice", "web", lockfile("bash"))

    resolution = made[protocol.RESOLVE](Resolve(WEB, None), task)

    assert resolution.reference == WEB.at(1)
    assert resolution.lockfile.is_file()


def test_refusals_come_as_they_are(made: Jobs, task: Task[None]) -> None:
    with pytest.raises(errors.NotFound):
        made[protocol.RESOLVE](Resolve(WEB, None), task)


def test_locations_come_with_what_to_log_in_with(
    local: FloxHub, made: Jobs, task: Task[None]
) -> None:
    envs = {"AWS_ACCESS_KEY_ID": "id"}
    local.publish(
        str(APP),
        {"url": "https://publisher.flox.dev", "auth": None, "public_keys": ["k:x"]},
        {"url": "s3://bucket", "auth": {"aws-s3": {"envs": envs}}, "public_keys": []},
    )

    site, bucket = made[protocol.LOCATIONS](CatalogQuery((APP,), "secret"), task)

    assert (site.url, site.user, site.password) == (
        "https://publisher.flox.dev",
        "unused",
        "secret",
    )
    assert (site.variables, site.public_keys) == ((), ("k:x",))
    assert (bucket.url, bucket.user, bucket.variables) == ("s3://bucket", None, tuple(envs.items()))


def test_what_a_caller_was_given_is_remembered_for_that_caller(
    made: Jobs, task: Task[None]
) -> None:
    query, other = CatalogQuery((APP,), "secret"), CatalogQuery((APP,), "another")
    made[protocol.NOTE_GIVEN](CatalogGrant(query, is_given=True), task)

    assert made[protocol.WAS_GIVEN](query, task)
    assert not made[protocol.WAS_GIVEN](other, task)
    made[protocol.NOTE_GIVEN](CatalogGrant(query, is_given=False), task)
    assert not made[protocol.WAS_GIVEN](query, task)


def test_what_was_not_used_for_long_is_forgotten(
    local: FloxHub, made: Jobs, task: Task[None]
) -> None:
    local.push("alice", "web", lockfile("bash"))
    made[protocol.RESOLVE](Resolve(WEB, None), task)

    assert made[protocol.FORGET](3600, task) == 0
    assert made[protocol.FORGET](-60, task) > 0
