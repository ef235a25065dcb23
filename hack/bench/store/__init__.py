"""Fetching and keeping closures, against Nix on the same machine and the same caches.

Ours is the daemon's own realizer with its worker processes, ready as after a start of the daemon;
Nix is `nix-store --realise` and `nix copy` with the settings that suit them best, signatures
required on both sides. Each run begins with an empty store on a fresh file system.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hack.bench import figures, grounds, material, rounds
from hack.bench.figures import Figure, Options
from hack.bench.material import Shape
from hack.bench.store import sides

_REPOSITORY = Path(__file__).parents[3]


def main(argv: Sequence[str]) -> int:
    """Measure all figures of the store."""
    return figures.main("store", argv, _measure)


def _measure(options: Options) -> Iterable[Figure]:
    yield from _slow_cache(options)
    for compression in ("zstd", "xz"):
        yield from _large_closure(options, compression)


def _slow_cache(options: Options) -> Iterator[Figure]:
    """Many small paths from a cache that is far away; then again with one of them changed."""
    shape = Shape(paths=100 if options.is_quick else 300, files=1500, bytes=30_000_000,
                  is_even=True)  # fmt: skip
    made = material.published(options, shape, "zstd")
    changes: list[float] = []

    with _server(made.directory, delay=0.02) as cache:

        def ours() -> float:
            with (
                grounds.fresh() as ground,
                sides.ours(ground, cache=cache, key=made.public_key) as program,
            ):
                seconds = program.fetch(made.roots)
                changes.append(program.fetch(made.changed))
                return seconds

        def realise() -> float:
            with grounds.fresh() as ground:
                return sides.nix_realise(
                    ground, made.roots, cache=cache, key=made.public_key, jobs=32
                )

        times = 2 if options.is_quick else 3
        results = rounds.run(
            options, {"ours": ours, "nix-store --realise -j32": realise}, times=times
        )
        with grounds.fresh() as ground:
            copied = sides.nix_copy(ground, made.roots, cache=cache, key=made.public_key)
    name = f"{shape.paths} paths of 100 KB, 20 ms a request"
    for side in ("nix-store --realise -j32",):
        yield Figure(
            name=name,
            unit="s",
            ours=results.median("ours"),
            theirs=results.median(side),
            against=side,
            limit=0.4,
        )
    yield Figure(
        name=name,
        unit="s",
        ours=results.median("ours"),
        theirs=copied,
        against="nix copy",
        limit=0.4,
    )
    yield Figure(
        name=f"one path of {shape.paths} changed",
        unit="s",
        ours=sorted(changes)[len(changes) // 2],
        theirs=results.median("ours"),
        against="the first realization",
        limit=0.1,
    )


def _large_closure(options: Options, compression: str) -> Iterator[Figure]:
    """Much data from a cache that is here."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=100, files=20_000 // scale, bytes=1_000_000_000 // scale)
    made = material.published(options, shape, compression)
    views: list[float] = []
    peaks: list[float] = []

    def ours() -> float:
        with (
            grounds.fresh() as ground,
            sides.ours(ground, cache=made.url, key=made.public_key) as program,
        ):
            seconds = program.fetch(made.roots)
            views.append(program.ask("view", "all"))
            peaks.extend(program.peaks)
            return seconds

    def realise() -> float:
        with grounds.fresh() as ground:
            return sides.nix_realise(
                ground, made.roots, cache=made.url, key=made.public_key, jobs=8
            )

    results = rounds.run(options, {"ours": ours, "nix-store --realise": realise}, times=3)
    name = f"{shape.bytes // 1_000_000} MB, {shape.files} files, {compression}"
    yield Figure(
        name=name,
        unit="s",
        ours=results.median("ours"),
        theirs=results.median("nix-store --realise"),
        against="nix-store --realise -j8",
        limit=0.8,
    )
    yield Figure(name=f"{name}: peak memory of a process", unit="MiB", ours=max(peaks), limit=256)
    yield Figure(
        name=f"{name}: view of hard links", unit="s", ours=sorted(views)[len(views) // 2], limit=0.5
    )


@contextlib.contextmanager
def _server(directory: Path, *, delay: float) -> Iterator[str]:
    """Serve a cache by a process of its own; give its URL."""
    argv = [sys.executable, "-m", "hack.testbed.file_server", str(directory), "--delay", str(delay)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
