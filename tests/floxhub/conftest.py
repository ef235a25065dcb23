"""A local FloxHub of each kind, and hubs that ask it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.floxhub.hub import Hub
from cri_proxy.floxhub.protocol import HubOptions
from hack.testbed.floxhub import FloxHub

LOCKFILES = Path(__file__).parents[1] / "data" / "lockfiles"
TIMEOUT_SECONDS = 60.0


def lockfile(name: str = "hello_as_greeting") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((LOCKFILES / f"{name}.lock").read_bytes())
    return loaded


@pytest.fixture(params=["git-v2", "git-v0", "dulwich"])
def floxhub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FloxHub]:
    """Serve a FloxHub of every kind: what is tested with it holds for all of them."""
    kind = request.param
    if kind != "dulwich" and not shutil.which("git"):
        pytest.skip("git is not installed")
    with FloxHub(
        tmp_path / "floxhub",
        kind="dulwich" if kind == "dulwich" else "git",
        protocol=2 if kind == "git-v2" else 0,
    ) as served:
        yield served


@pytest.fixture
def local(tmp_path: Path) -> Iterator[FloxHub]:
    """Serve a FloxHub of one kind, for what does not depend on git."""
    with FloxHub(tmp_path / "floxhub") as served:
        yield served


@pytest.fixture
def hub_of(tmp_path: Path) -> Callable[[FloxHub], Hub]:
    """Return what makes a hub for a FloxHub; all hubs share one node's directory."""
    return lambda served: Hub(
        HubOptions(tmp_path / "node", served.git_url, served.api_url, TIMEOUT_SECONDS)
    )


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own proxies out; tests of proxies set their own."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
