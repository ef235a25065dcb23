"""A node that realizes: a FloxHub, a binary cache, and a realizer with workers of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.daemon import parts
from cri_proxy.model import systems
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer.realizer import Realizer
from cri_proxy.settings.schema import (
    ActivationSettings,
    FloxHubSettings,
    LogSettings,
    Settings,
    StoreSettings,
)
from hack.testbed import environments
from hack.testbed.binary_cache import Executable, Publisher
from hack.testbed.environments import Package
from hack.testbed.floxhub import FloxHub
from hack.testbed.web import FileServer


@dataclass
class Node:
    """What a realizer of this node is built from, and the sources that it asks."""

    root: Path
    hub: FloxHub
    cache: FileServer
    publisher: Publisher
    shells: dict[str, StorePath] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The settings; nothing that FloxHub said is remembered in memory."""
        return Settings(
            store=StoreSettings(
                root=self.root,
                caches=(self.cache.url,),
                public_keys=(self.publisher.public_key,),
                workers=1,
            ),
            floxhub=FloxHubSettings(
                url=self.hub.url,
                git_url=self.hub.git_url,
                api_url=self.hub.api_url,
                remember_seconds=0,
            ),
            activation=ActivationSettings(shell=self.shells, certificates="none"),
            log=LogSettings(level="debug"),
        )

    def realizer(self) -> contextlib.AbstractAsyncContextManager[Realizer]:
        """Give a realizer; each has workers and memory of its own."""
        return parts.realizer_of(self.settings)

    def package(self, name: str, *, catalog: str | None = None) -> Package:
        """Publish a package with a program of its name."""
        path = self.publisher.add(name, {f"bin/{name}": Executable(name.encode())})
        return Package(name, path, catalog=catalog)

    def push(self, name: str, *packages: Package, **parts: Any) -> int:
        """Push a generation of `acme/<name>`."""
        return self.hub.push("acme", name, environments.lockfile(*packages, **parts))

    def shell(self) -> StorePath:
        """Publish a bash, and have the settings name it."""
        path = self.publisher.add("bash", {"bin/bash": Executable(b"a shell")})
        self.shells[systems.of_node()] = path
        return path


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose FloxHub and cache run."""
    publisher = Publisher(tmp_path / "cache")
    with FloxHub(tmp_path / "floxhub") as hub, FileServer(publisher.directory) as cache:
        yield Node(tmp_path / "node", hub, cache, publisher)


@pytest.fixture
async def realizer(node: Node) -> AsyncIterator[Realizer]:
    """A realizer of that node."""
    async with node.realizer() as realizer:
        yield realizer
