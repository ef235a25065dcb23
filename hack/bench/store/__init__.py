"""Fetching and storing closures, compared with Nix on the same machine and the same caches.

    far       300 small paths from a cache that takes 20 ms per request; then one of them changed
    large     1 GB in 20,000 files from a local cache, in zstd and in xz; the view of it
    changed   300 paths of typical sizes from a local cache; then one of them changed
    present   an environment whose paths are all on the node, from reference to ready

Our side is the daemon's realizer with its worker processes, which are running when a fetch begins,
as they are once FloxHub has answered. Nix requires signatures, too. Each run begins with an empty
store on a fresh file system. --python=…/bin/python3 of an unpacked release measures the release,
with its libraries and its own cri_proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hack.bench import figures, filesystems, material, origin, rounds
from hack.bench.figures import Figure, Options
from hack.bench.material import Material, Shape
from hack.bench.store import sides
from hack.testbed import environments
from hack.testbed.environments import Package
from hack.testbed.floxhub import FloxHub
from hack.testbed.web import Request

DELAY_SECONDS: Final = 0.02


def main(argv: Sequence[str]) -> int:
    """Measure all figures of the store."""
    return figures.main("store", argv, _measure)


def _measure(options: Options) -> Iterable[Figure]:
    yield from _far(options)
    for compression in ("zstd", "xz"):
        yield from _large(options, compression)
    yield from _changed(options)
    yield from _present(options)


def _far(options: Options) -> Iterator[Figure]:
    """Measure many small paths from a distant cache; then the same with one of them changed."""
    paths = 100 if options.is_quick else 300
    shape = Shape(paths=paths, files=5 * paths, bytes=100_000 * paths, is_even=True)
    made = material.published(options, shape, "zstd")
    key = made.public_key
    changes: list[float] = []
    with origin.serving(made.directory, delay=DELAY_SECONDS) as cache:

        def ours() -> float:
            with filesystems.fresh() as scratch, _ours(options, scratch, cache, key) as program:
                seconds = program.fetch(made.roots)
                changes.append(program.fetch(made.changed))
                return seconds

        def realise() -> float:
            with filesystems.fresh() as scratch:
                return sides.nix_realise(scratch, made.roots, cache=cache, key=key, jobs=32)

        def tuned() -> float:
            with filesystems.fresh() as scratch:
                return sides.nix_realise(
                    scratch, made.roots, cache=cache, key=key, jobs=32, is_tuned=True
                )

        compared = {"ours": ours, "nix-store -j32": realise, "nix-store -j32, tuned": tuned}
        results = rounds.run(options, compared, times=2 if options.is_quick else 7)
        with filesystems.fresh() as scratch:
            copied = sides.nix_copy(scratch, made.roots, cache=cache, key=key)
    for against, theirs, limit in (
        ("nix-store --realise -j32", results.median("nix-store -j32"), 0.4),
        ("the same, tuned", results.median("nix-store -j32, tuned"), None),
        ("nix copy", copied, 0.4),
    ):
        yield Figure(
            name=f"{paths} paths of 100 KB, 20 ms a request",
            unit="s",
            ours=results.median("ours"),
            theirs=theirs,
            against=against,
            limit=limit,
        )
    yield Figure(
        name=f"one path changed of {paths}, two requests of 20 ms",
        unit="s",
        ours=rounds.median(changes),
        theirs=results.median("ours"),
        against="the first realization",
        limit=0.1,
    )


def _large(options: Options, compression: str) -> Iterator[Figure]:
    """Measure a large closure from a local cache."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=100, files=20_000 // scale, bytes=1_000_000_000 // scale)
    made = material.published(options, shape, compression)
    key = made.public_key
    views: list[float] = []
    peaks: list[float] = []

    def ours() -> float:
        with filesystems.fresh() as scratch, _ours(options, scratch, made.url, key) as program:
            seconds = program.fetch(made.roots)
            views.append(program.ask("view", "all"))
            peaks.extend(program.peaks)
            return seconds

    def realise() -> float:
        with filesystems.fresh() as scratch:
            return sides.nix_realise(
                scratch, made.roots, cache=made.url, key=key, jobs=4, is_tuned=True
            )

    def bare() -> float:
        with filesystems.fresh() as scratch:
            return sides.bare(scratch, made, files=shape.files, python=options.python)

    compared = {"ours": ours, "nix-store -j4": realise}
    if compression == "zstd":
        compared["neither"] = bare
    results = rounds.run(options, compared, times=3)
    name = f"{shape.bytes // 1_000_000} MB, {shape.files} files, {compression}"
    yield Figure(
        name=name,
        unit="s",
        ours=results.median("ours"),
        theirs=results.median("nix-store -j4"),
        against="nix-store --realise -j4, tuned",
        limit=0.8,
    )
    if compression == "zstd":
        yield Figure(
            name=f"{name}: decompressing, hashing and writing alone, in as many processes",
            unit="s",
            ours=results.median("neither"),
            theirs=results.median("nix-store -j4"),
            against="nix-store --realise -j4, tuned",
        )
    yield Figure(name=f"{name}: largest process", unit="MiB", ours=max(peaks), limit=256)
    yield Figure(name=f"{name}: view of hard links", unit="s", ours=rounds.median(views), limit=0.5)


def _changed(options: Options) -> Iterator[Figure]:
    """Measure a change of one path of a closure, without network latency."""
    made = _usual(options)
    first, then = [], []
    for _ in range(2 if options.is_quick else 3):
        with (
            filesystems.fresh() as scratch,
            _ours(options, scratch, made.url, made.public_key) as program,
        ):
            first.append(program.fetch(made.roots))
            then.append(program.fetch(made.changed))
    yield Figure(
        name=f"one path changed of {made.describe()}, cache here",
        unit="s",
        ours=rounds.median(then),
        theirs=rounds.median(first),
        against="the first realization",
        limit=0.1,
    )


def _usual(options: Options) -> Material:
    """Return a closure of typical sizes."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=300, files=12_000 // scale, bytes=500_000_000 // scale)
    return material.published(options, shape, "zstd")


def _present(options: Options) -> Iterator[Figure]:
    """Measure with all paths on the node: FloxHub's round trip, and the rest."""
    made = _usual(options)
    times, round_trips = [], []
    with filesystems.fresh() as scratch, FloxHub(scratch / "hub", kind="git") as hub:
        packages = [Package(each.name, each) for each in made.roots]
        hub.push("bench", "web", environments.lockfile(*packages))
        floxhub = {"url": hub.url, "git_url": hub.git_url, "remember_seconds": 0}
        root = scratch / "root"
        with _ours(options, root, made.url, made.public_key, floxhub) as program:
            first = program.ask("realize", "bench/web")
            for _ in range(5 if options.is_quick else 25):
                before = hub.count()
                times.append(program.ask("realize", "bench/web"))
                round_trips.append(_round_trip(hub, hub.requests[before:]))
    options.log(f"the first realization took {first:.2f} s")
    yield Figure(
        name="all present: from reference to ready, less FloxHub's round trip",
        unit="ms",
        ours=1000 * (rounds.median(times) - rounds.median(round_trips)),
        limit=20,
    )
    yield Figure(name="FloxHub's round trip", unit="ms", ours=1000 * rounds.median(round_trips))


def _ours(
    options: Options,
    root: Path,
    cache: str,
    key: str,
    floxhub: dict[str, object] | None = None,
) -> contextlib.AbstractContextManager[sides.Ours]:
    return sides.ours(root, cache=cache, key=key, floxhub=floxhub, python=options.python)


def _round_trip(hub: FloxHub, requests: Sequence[Request]) -> float:
    """Return the seconds that the same requests to FloxHub take by themselves."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    connection.connect()
    begun = time.perf_counter()
    for each in requests:
        wanted = ("git-protocol", "content-type")
        headers = {name: each.headers[name] for name in wanted if name in each.headers}
        connection.request(each.method, each.path, each.body or None, headers)
        connection.getresponse().read()
    seconds = time.perf_counter() - begun
    connection.close()
    return seconds
