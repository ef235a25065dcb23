"""Fifty nodes that realize one environment at once and share it: the load on the origin.

A node is a store, the peer server, and a program that does what the daemon's workers do for one
realization (`program`). The origin takes 20 ms per request; the load of a single node on it is the
baseline. Stores are in memory: on one disk, each node's syncfs would block all the others.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cri_proxy.lib import codec
from cri_proxy.store.protocol import PeerOptions
from hack.bench import figures, material, origin
from hack.bench.figures import Figure, Options
from hack.bench.material import Material, Shape
from hack.testbed import peers

DELAY_SECONDS: Final = 0.02
_REPOSITORY: Final = Path(__file__).parents[3]


def main(argv: Sequence[str]) -> int:
    """Measure all figures of peers."""
    return figures.main("peers", argv, _measure)


def _measure(options: Options) -> Iterable[Figure]:
    nodes, paths = (10, 40) if options.is_quick else (50, 100)
    shape = Shape(paths=paths, files=5 * paths, bytes=100_000 * paths, is_even=True)
    made = material.published(options, shape, "zstd")
    alone = _run(made, 1, has_peers=False)
    options.log(f"one node alone: {alone.bytes} bytes, {alone.requests} requests")
    together = _run(made, nodes, has_peers=True)
    name = f"{nodes} nodes at once, {paths} paths of 100 KB"
    yield Figure(
        name=f"{name}: bytes requested from the origin",
        unit="MB",
        ours=together.bytes / 1e6,
        theirs=alone.bytes / 1e6,
        against="one node alone",
        limit=3,
    )
    yield Figure(
        name=f"{name}: requests to the origin",
        unit="",
        ours=together.requests,
        theirs=alone.requests,
        against="one node alone",
    )
    yield Figure(
        name=f"{name}: until the last is ready",
        unit="s",
        ours=together.seconds,
        note=f"one node alone {alone.seconds:.1f} s; all of them share this machine's processors",
    )


class _Outcome:
    """The load of a run on the origin, and the duration."""

    def __init__(self, sent: Sequence[int], seconds: float) -> None:
        self.bytes, self.requests = sent
        self.seconds = seconds


def _run(made: Material, count: int, *, has_peers: bool) -> _Outcome:
    """Realize the closure on `count` nodes at once."""
    with (
        tempfile.TemporaryDirectory(prefix="cri-proxy-bench-", dir="/dev/shm") as scratch,
        origin.serving(made.directory, delay=DELAY_SECONDS) as url,
        peers.cluster(Path(scratch), count, caches=(url,), keys=(made.public_key,)) as nodes,
        contextlib.ExitStack() as stack,
    ):
        if not has_peers:
            for node in nodes:
                node.options = replace(node.options, peers=PeerOptions())
        programs = [stack.enter_context(_program(node, made)) for node in nodes]
        for each in programs:
            assert each.stdout is not None
            each.stdout.readline()  # it is ready
        begun = time.perf_counter()
        for each in programs:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        for each in programs:
            assert each.stdout is not None
            if int(each.stdout.readline()) != len(made.closure):
                raise RuntimeError("a node did not realize the closure: see its output")
        seconds = time.perf_counter() - begun
        with urllib.request.urlopen(f"{url}/{origin.SENT}") as answer:
            return _Outcome(json.load(answer), seconds)


@contextlib.contextmanager
def _program(node: peers.Node, made: Material) -> Iterator[subprocess.Popen[str]]:
    """Run `program` for a node."""
    argument = codec.encode(
        {"store": node.options, "roots": [each.basename for each in made.roots]}
    )
    program = subprocess.Popen(
        [sys.executable, "-m", "hack.bench.peers.program", argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    )
    with program:
        yield program
