"""FloxHub's job functions: JSON in, JSON out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cri_proxy import errors
from cri_proxy.floxhub import jobs
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.hub import Hub
from cri_proxy.model import references
from hack.testbed.floxhub import FloxHub
from tests.floxhub.conftest import TIMEOUT_SECONDS, lockfile

APP = "/nix/store/0v4gz9k1dwxr5wgnfxwh1sjv5jk0m7bp-app-2.0"


def through_json(job: jobs.Job, argument: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(job(json.loads(json.dumps(argument)), None)))
    return result


def test_a_resolution_survives_the_way_to_a_worker_and_back(
    local: FloxHub, hub_of: Callable[[FloxHub], Hub]
) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub = hub_of(local)

    wire = through_json(jobs.jobs(hub)[jobs.RESOLVE], {"reference": "alice/web", "token": None})

    assert jobs.resolution_of(wire) == hub.resolve(references.parse("alice/web"), None)


def test_refusals_come_as_they_are(local: FloxHub, hub_of: Callable[[FloxHub], Hub]) -> None:
    resolve = jobs.jobs(hub_of(local))[jobs.RESOLVE]

    with pytest.raises(errors.NotFound):
        resolve({"reference": "alice/web", "token": None}, None)
    with pytest.raises(errors.RequestInvalid):
        resolve({"reference": "no reference"}, None)


def test_locations_are_told_in_json_with_what_to_log_in_with(
    local: FloxHub, hub_of: Callable[[FloxHub], Hub]
) -> None:
    envs = {"AWS_ACCESS_KEY_ID": "id"}
    local.publish(
        APP,
        {"url": "https://publisher.flox.dev", "auth": None, "public_keys": ["k:x"]},
        {"url": "s3://bucket", "auth": {"aws-s3": {"envs": envs}}, "public_keys": []},
    )
    made = jobs.jobs(hub_of(local), Catalog(local.api_url, timeout_seconds=TIMEOUT_SECONDS))

    assert through_json(made[jobs.LOCATIONS], {"paths": [APP], "token": "secret"}) == {
        APP: [
            {
                "url": "https://publisher.flox.dev",
                "user": "unused",
                "password": "secret",
                "variables": {},
                "public_keys": ["k:x"],
                "unspoken": None,
            },
            {
                "url": "s3://bucket",
                "user": None,
                "password": None,
                "variables": envs,
                "public_keys": [],
                "unspoken": None,
            },
        ]
    }


def test_what_nobody_asked_for_since_is_forgotten(
    local: FloxHub, hub_of: Callable[[FloxHub], Hub]
) -> None:
    local.push("alice", "web", lockfile("bash"))
    made = jobs.jobs(hub_of(local))
    through_json(made[jobs.RESOLVE], {"reference": "alice/web", "token": None})

    assert through_json(made[jobs.FORGET], {"seconds": 3600}) == {"files": 0}
    assert through_json(made[jobs.FORGET], {"seconds": -60})["files"] > 0


def test_without_a_catalog_there_is_no_job_about_locations(
    local: FloxHub, hub_of: Callable[[FloxHub], Hub]
) -> None:
    assert jobs.LOCATIONS not in jobs.jobs(hub_of(local))


def test_the_daemon_can_name_the_jobs_without_loading_git_or_http() -> None:
    program = (
        "import sys; import cri_proxy.floxhub.jobs, cri_proxy.floxhub.outputs; "
        "import cri_proxy.floxhub.variables, cri_proxy.floxhub.lockfile; "
        "print([each for each in ('dulwich', 'urllib3', 'ssl') if each in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )

    assert done.stdout.strip() == "[]"
