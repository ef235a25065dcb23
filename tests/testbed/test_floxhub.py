"""git itself can read from both kinds of local FloxHub.

Our own client is tested with both kinds in tests/floxhub.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import urllib3

from hack.testbed.floxhub import FloxHub
from hack.testbed.web import Reset, Status

LOCK = {"lockfile-version": 1, "manifest": {"version": 1}, "packages": []}
WAIT_SECONDS = 60


@pytest.fixture(params=["git", "dulwich"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FloxHub]:
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    kind: Literal["git", "dulwich"] = request.param
    with FloxHub(tmp_path / "hub", kind=kind) as served:
        yield served


def git(directory: Path, *arguments: str) -> str:
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    return done.stdout


def test_git_reads_pushes_in_floxs_layout(hub: FloxHub, tmp_path: Path) -> None:
    assert hub.push("alice", "web", LOCK) == 1
    assert hub.push("alice", "web", LOCK) == 2
    hub.set_live("alice", "web", 1)
    hub.push("alice", "other", LOCK)
    url = f"{hub.git_url}/alice/floxmeta"

    git(tmp_path, "clone", "-q", "--bare", "--single-branch", "--branch", "web", url, "copy")

    copy = tmp_path / "copy"
    assert git(copy, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/web"]
    assert git(copy, "ls-tree", "-r", "--name-only", "web").split() == [
        "1/env/manifest.lock",
        "1/env/manifest.toml",
        "2/env/manifest.lock",
        "2/env/manifest.toml",
        "metadata.json",
    ]
    assert json.loads(git(copy, "show", "web:2/env/manifest.lock")) == LOCK
    metadata = json.loads(git(copy, "show", "web:metadata.json"))
    assert metadata["version"] == 2
    assert metadata["total_generations"] == 2
    assert [each["current_generation"] for each in metadata["history"]] == ["1", "2", "1"]
    assert len(git(copy, "rev-list", "web").split()) == 3


def test_git_fetches_the_last_commit_alone(hub: FloxHub, tmp_path: Path) -> None:
    for _ in range(3):
        hub.push("alice", "web", LOCK, metadata_version=1)
    url = f"{hub.git_url}/alice/floxmeta"

    git(tmp_path, "clone", "-q", "--bare", "--depth", "1", "--branch", "web", url, "copy")

    assert len(git(tmp_path / "copy", "rev-list", "web").split()) == 1
    metadata = json.loads(git(tmp_path / "copy", "show", "web:metadata.json"))
    assert metadata["currentGen"] == "3"
    assert sorted(metadata["generations"]) == ["1", "2", "3"]


def test_git_is_asked_for_a_token_where_one_is_required(hub: FloxHub, tmp_path: Path) -> None:
    hub.push("alice", "web", LOCK)
    hub.require_token("alice", "secret")
    plain = f"{hub.git_url}/alice/floxmeta"

    with pytest.raises(subprocess.CalledProcessError) as refused:
        git(tmp_path, "ls-remote", plain)
    assert "could not read Username" in refused.value.stderr
    assert "refs/heads/web" in git(tmp_path, "ls-remote", plain.replace("://", "://oauth:secret@"))
    hub.open_to_all("alice")
    assert "refs/heads/web" in git(tmp_path, "ls-remote", plain)


def test_pushes_survive_a_restart(hub: FloxHub, tmp_path: Path) -> None:
    hub.push("alice", "web", LOCK)
    url = hub.url
    hub.stop()
    with pytest.raises(subprocess.CalledProcessError):
        git(tmp_path, "ls-remote", f"{url}/git/alice/floxmeta")

    hub.start()

    assert hub.url == url
    assert "refs/heads/web" in git(tmp_path, "ls-remote", f"{url}/git/alice/floxmeta")


def test_faults_apply_to_the_given_number_of_matching_requests(hub: FloxHub) -> None:
    hub.fail("GET /a", Status(503), times=2)
    with urllib3.PoolManager() as pool:
        statuses = [
            pool.request("GET", hub.url + path, retries=False).status
            for path in ("/a", "/b", "/a", "/a")
        ]

        assert statuses == [503, 404, 503, 404]
        assert hub.count("GET /a") == 3

        hub.fail("*", Reset())
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", f"{hub.url}/a", retries=False)
        hub.heal()
        assert pool.request("GET", f"{hub.url}/a", retries=False).status == 404


def test_requests_wait_while_they_are_held(hub: FloxHub) -> None:
    with urllib3.PoolManager() as pool, ThreadPoolExecutor(1) as threads:
        with hub.hold("GET /a") as held:
            asked = threads.submit(pool.request, "GET", f"{hub.url}/a", retries=False)
            held.wait()
            assert pool.request("GET", f"{hub.url}/b", retries=False).status == 404
            assert not asked.done()

        assert asked.result(WAIT_SECONDS).status == 404
