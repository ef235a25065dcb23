"""Nodes that share store paths: each has a store, the real peer server, and a worker's jobs.

    with peers.cluster(tmp_path, 3, caches=(server.url,), keys=(publisher.public_key,)) as nodes:
        nodes[0].realize(root)
        assert server.count("/nar/*") == ...

Each has its own loopback address, 127.x.y.z, and knows the addresses of all others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cri_proxy.daemon.initialization import PeerServerInit
from cri_proxy.lib import child
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.model import storepaths
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.storepaths import StorePath
from cri_proxy.settings.schema import LogSettings
from cri_proxy.store import protocol
from cri_proxy.store.disk.local import Store
from cri_proxy.store.protocol import Fact, Fetch, PeerOptions, StoreOptions, Survey
from hack.testbed import ports

_REPOSITORY: Final = Path(__file__).parents[2]
_subnets: Final = itertools.count(os.getpid() * 7)


class Node:
    """One node, which serves others from `start` to `stop`."""

    def __init__(
        self, directory: Path, address: str, names: Sequence[str], settings: dict[str, Any]
    ) -> None:
        self.address: Final = address
        self.store: Final = Store(directory / "store")
        for name in (".narinfo", ".stage"):  # without the store's background work
            (directory / "store" / name).mkdir(parents=True)
        defaults: dict[str, Any] = {
            "ca_file": None,
            "timeout_seconds": 30,
            "connections": 8,
            "node_connections": 8,
            "peers": PeerOptions(tuple(names), address),
        }
        self.options = StoreOptions(self.store.directory, **defaults | settings)
        self._log: Final = directory / "log"
        self._program: subprocess.Popen[bytes] | None = None
        self._jobs: Jobs | None = None

    def start(self) -> None:
        """Start the peer server, as the daemon does."""
        host, _, port = self.address.rpartition(":")
        listening = socket.create_server((host, int(port)), backlog=1024)
        log_settings = LogSettings(level="debug", format="text")
        init = PeerServerInit(self.options, log_settings, listening.fileno())
        with listening, self._log.open("ab") as log:
            self._program = subprocess.Popen(
                [sys.executable, "-m", "cri_proxy", "peer-server"],
                stdin=subprocess.PIPE,
                stderr=log,
                pass_fds=(listening.fileno(),),
                cwd=_REPOSITORY,
            )
        assert self._program.stdin is not None
        self._program.stdin.write(child.init_line_of(init, nice=0))
        self._program.stdin.flush()

    def stop(self) -> None:
        """Stop the peer server."""
        if self._program is not None:
            assert self._program.stdin is not None
            self._program.stdin.close()
            self._program.wait(timeout=30)
            self._program = None

    def log(self) -> str:
        """Return the log of the peer server."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def jobs(self) -> Jobs:
        """The jobs of a worker of this node."""
        if self._jobs is None:
            from cri_proxy.store.fetch import jobs as fetching  # imported only in workers

            self._jobs = fetching.jobs(self.options)
        return self._jobs

    def survey(self, *roots: StorePath, places: Sequence[Location] = ()) -> list[Fact]:
        """Return the facts about the closure of `roots`, using additional locations."""
        facts: list[Fact] = []
        argument = Survey(tuple(each.basename for each in roots), 8, tuple(places))
        facts.extend(self.jobs[protocol.SURVEY](argument, Task(facts.extend)))
        return facts

    def fetch(self, fact: Fact) -> None:
        """Fetch an absent path of a survey."""
        assert fact.found is not None
        self.jobs[protocol.FETCH](Fetch(fact.path, fact.found), Task(lambda count: None))

    def realize(self, *roots: StorePath) -> tuple[StorePath, ...]:
        """Fetch the closure of `roots` path by path; return its paths."""
        facts = self.survey(*roots)
        for fact in facts:
            if fact.found is not None:
                self.fetch(fact)
        return tuple(storepaths.of_basename(fact.path) for fact in facts)


@contextlib.contextmanager
def cluster(directory: Path, count: int, **settings: Any) -> Iterator[tuple[Node, ...]]:
    """Yield `count` nodes that serve each other; `settings` are added to the workers' options."""
    subnet = next(_subnets) % 60_000
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(ports.kept())
        names = [
            f"127.{1 + subnet // 250}.{1 + subnet % 250}.{number}:{port}"
            for number in range(1, count + 1)
        ]
        nodes = tuple(
            Node(directory / f"node-{number}", address, names, settings)
            for number, address in enumerate(names, 1)
        )
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        yield nodes
