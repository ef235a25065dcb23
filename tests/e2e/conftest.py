"""What tests of whole pods share: a node with a proxy, a FloxHub and a binary cache of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hack.testbed import environments, images, kubelet
from hack.testbed.containerd import Containerd
from hack.testbed.environments import Package, Published
from hack.testbed.floxhub import FloxHub
from hack.testbed.pods import Container, Pod, Pods
from hack.testbed.proxy import Proxy
from hack.testbed.web import FileServer

ON_BOTH_RUNTIMES = pytest.mark.parametrize("containerd", ["system", "newest"], indirect=True)
"""A test with this runs on the system's runtime and on containerd 2."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this directory's tests, so that none can forget to."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@dataclass(slots=True)
class Node:
    """A node: a runtime shared with other tests, all the rest this test's alone."""

    containerd: Containerd
    hub: FloxHub
    cache: FileServer
    published: Published
    proxy: Proxy
    pods: Pods
    _names: Iterator[int] = field(default_factory=itertools.count)

    def push(self, name: str, *packages: Package, **parts: Any) -> int:
        """Push a generation of environment acme/<name>; tools are always in it."""
        lock = environments.lockfile(self.published.tools, *packages, **parts)
        return self.hub.push("acme", name, lock)

    def pod(self, environment: str, annotations: Mapping[str, str] | None = None) -> Pod:
        """Run a pod that is annotated with `environment`."""
        return self.pods.run_pod(
            f"pod-{next(self._names)}",
            {"flox.dev/environment": environment, **(annotations or {})},
        )

    def run(self, environment: str, *command: str, **parts: Any) -> Container:
        """Run a program in a new pod of `environment`, in the placeholder image."""
        return self.pod(environment).run(spec(*command, **parts))

    def output(self, environment: str, *command: str, **parts: Any) -> str:
        """Return what a program wrote that ran in a new pod and ended well."""
        container = self.run(environment, *command, **parts)
        assert container.wait() == 0, container.logs()
        return container.logs().stdout.decode()


def spec(*command: str, **parts: Any) -> kubelet.Spec:
    """Return a container of the placeholder image that runs `command`."""
    return kubelet.Spec(**{"image": images.PLACEHOLDER, "command": command, **parts})


@pytest.fixture
def containerd(request: pytest.FixtureRequest, containerd: Containerd) -> Containerd:
    """The system's runtime, or the newest where a test's parameters say so."""
    if getattr(request, "param", "system") == "newest":
        newest: Containerd = request.getfixturevalue("newest_containerd")
        return newest
    return containerd


@pytest.fixture
def node_settings() -> dict[str, dict[str, Any]]:
    """Settings of the proxy beyond those that every test needs; override it in a module."""
    return {}


@pytest.fixture
def node(
    tmp_path: Path,
    containerd: Containerd,
    published: Published,
    node_settings: dict[str, dict[str, Any]],
) -> Iterator[Node]:
    """A node whose proxy runs, with an empty store and an empty FloxHub."""
    with ExitStack() as stack:
        hub = stack.enter_context(FloxHub(tmp_path / "hub", kind="git"))
        cache = stack.enter_context(FileServer(published.publisher.directory))
        pods = stack.enter_context(containerd.pods())
        proxy = Proxy(
            tmp_path / "proxy",
            containerd.socket,
            {
                "floxhub": {"url": hub.url, "git_url": hub.git_url, "remember_seconds": 0},
                "store": {
                    "caches": [cache.url],
                    "public_keys": [published.publisher.public_key],
                },
            },
            kubelet_root=pods.directory / "kubelet",
        )
        proxy.configure(node_settings)
        stack.enter_context(proxy)
        through = stack.enter_context(containerd.pods(proxy.socket))
        yield Node(containerd, hub, cache, published, proxy, through)
