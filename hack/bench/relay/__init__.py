"""Forwarding a call, compared with a transparent proxy in Go; client and runtime are in Go, too.

    load (Go) --> runtime (Go)                        directly
    load (Go) --> router (ours)        --> runtime    calls that are not interposed
    load (Go) --> interposer (ours)    --> runtime    as with --set serve.front=interposer
    load (Go) --> siderolabs/grpc-proxy --> runtime   the other side
    load (Go) --> koord-runtime-proxy  --> runtime    a third, if it can be built (`koordinator`)

All are separate processes, measured in turns within one run. The added latency of a proxy is its
time less that of the direct connection in the same round. Needs `go`; the modules are pinned in
go.mod.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hack.bench import figures, filesystems, material, processes
from hack.bench.figures import Figure, Options
from hack.bench.material import Material, Shape
from hack.bench.relay import koordinator
from hack.bench.store import sides as sides_of_stores

GO: Final = "siderolabs/grpc-proxy"
OURS: Final = (sys.executable, "-m", "hack.bench.relay.program")
_PACKAGE: Final = Path(__file__).parent
_REPOSITORY: Final = _PACKAGE.parents[2]
_BUSY: Final = (
    "import hashlib; from cri_proxy.lib import scheduling; scheduling.compute(10);"
    " data = bytes(1 << 17)\n"
    "while 1: hashlib.sha256(data).digest(); scheduling.give_way()"
)


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the load generator; times in microseconds, with its proxy's processor time."""

    p50: float
    p99: float
    per_second: float
    calls: int
    computed: float


@dataclass(frozen=True, slots=True)
class Side:
    """A way to the runtime: its socket, and the process whose processor time counts."""

    socket: Path
    process: int


Loads = dict[str, list[Load]]
"""The runs of each side, in order."""


def main(argv: Sequence[str]) -> int:
    """Measure all figures of the relay."""
    return figures.main("relay", argv, _measure)


def _measure(options: Options) -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="cri-proxy-relay-") as name:
        directory = Path(name)
        program = built(options)
        with _ways(program, directory) as sides:
            yield from _one_at_a_time(options, program, sides)
            yield from _in_flight(options, program, sides)
            yield from _large(options, program, sides)
            yield from _beside_work(options, program, sides)
            yield from _beside_realizing(options, program, sides)
            yield from _empty(options, program, sides, directory)


def _one_at_a_time(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    found = _rounds(options, program, sides)
    yield _compared("small call, added p50 by the router", found, _added, limit=0.4)
    yield _compared("small call, added p50 by the interposer", found, _added, side="interposer")
    yield _compared("small call, p99 through the router", found, _p99, limit=1.0)
    yield Figure(name="small call, p50 directly", unit="us", ours=_median(found["directly"], "p50"))


def _in_flight(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    found = _rounds(options, program, sides, "-in-flight", "16")
    note = f"directly {_per_second(found, 'directly'):.0f}, interposer "
    yield replace(
        _compared("16 in flight", found, _per_second, unit="calls/s", limit=1.8),
        is_floor=True,
        note=f"{note}{_per_second(found, 'interposer'):.0f}",
    )
    name = "computing of the proxy for 10,000 calls, 16 in flight"
    yield _compared(name, found, _computing, unit="s", limit=0.5)


def _large(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    found = _rounds(options, program, sides, "-answer-bytes", str(1 << 20))
    yield _compared("answer of 1 MiB, added p50 by the router", found, _added, limit=1.0)


def _beside_work(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    """Measure beside processes like the realizer's workers, with niceness 10 and regular yields."""
    two = {name: sides[name] for name in ("router", GO)}
    idle = _rounds(options, program, two)
    with contextlib.ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0))):
            stack.enter_context(running(sys.executable, "-c", _BUSY))
        busy = _rounds(options, program, two)
    yield from _beside("p99 beside nice work on all processors", busy, idle)


def _beside_realizing(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    """Measure while the daemon's workers fetch, unpack and verify a closure of a gigabyte."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=100, files=20_000 // scale, bytes=1_000_000_000 // scale)
    made = material.published(options, shape, "zstd")
    two = {name: sides[name] for name in ("router", GO)}
    idle = _rounds(options, program, two)
    busy: Loads = {name: [] for name in two}
    for _ in range(3 if options.is_quick else 5):
        for name, side in two.items():
            busy[name] += _while_fetching(program, side, made)
            options.log(f"beside realizing: {name} p99 {_p99(busy, name):.0f} us")
    yield from _beside(f"p99 while {shape.bytes // 1_000_000} MB are realized", busy, idle)


def _empty(
    options: Options, program: Path, sides: dict[str, Side], directory: Path
) -> Iterator[Figure]:
    """Measure empty answers, compared with koordinator's proxy, if that can be built."""
    name, found = koordinator.NAME, koordinator.built(options)
    if found is None:
        return
    socket = directory / "koordinator.sock"
    argv = koordinator.argv(found, socket, sides["directly"].socket)
    with running(*argv) as process:
        wait_for(socket, process)
        three = {each: sides[each] for each in ("directly", "router")}
        three[name] = Side(socket, process.pid)
        empty = ("-answer-bytes", "0")
        one = _rounds(options, program, three, *empty)
        many = _rounds(options, program, three, *empty, "-in-flight", "16")
    yield _compared("empty answer, added p50 by the router", one, _added, other=name)
    yield _compared("empty answer, p99 through the router", one, _p99, other=name)
    each = "empty answers, 16 in flight"
    yield _compared(each, many, _per_second, other=name, unit="calls/s")
    each = "computing for 10,000 empty answers, 16 in flight"
    yield _compared(each, many, _computing, other=name, unit="s")


def _beside(name: str, busy: Loads, idle: Loads) -> Iterator[Figure]:
    """Compare the router's p99 on a busy machine with that on an idle one, and with the other's."""
    ours, theirs = _p99(busy, "router"), _p99(idle, "router")
    against = "the same without"
    yield Figure(name=name, unit="us", ours=ours, theirs=theirs, against=against, limit=3.0)
    yield _compared(name, busy, _p99, limit=1.0)


def _compared(
    name: str,
    found: Loads,
    measure: Callable[[Loads, str], float],
    *,
    side: str = "router",
    other: str = GO,
    unit: str = "us",
    limit: float | None = None,
) -> Figure:
    """Return the figure that compares two sides by one measure."""
    ours, theirs = measure(found, side), measure(found, other)
    return Figure(name=name, unit=unit, ours=ours, theirs=theirs, against=other, limit=limit)


def _p99(found: Loads, side: str) -> float:
    return _median(found[side], "p99")


def _per_second(found: Loads, side: str) -> float:
    return _median(found[side], "per_second")


def _computing(found: Loads, side: str) -> float:
    """Return the processor time for 10,000 calls, in seconds."""
    return statistics.median(each.computed / each.calls for each in found[side]) * 10_000


def _while_fetching(program: Path, side: Side, made: Material) -> list[Load]:
    """Load a side while a fetch runs, one second at a time; drop the last, partly idle second.

    If the fetch ends within the first second, that second counts.
    """
    loads: list[Load] = []
    with (
        filesystems.fresh() as scratch,
        sides_of_stores.ours(scratch, cache=made.url, key=made.public_key) as realizing,
        ThreadPoolExecutor(1) as pool,
    ):
        fetching = pool.submit(realizing.fetch, made.roots)
        while not fetching.done():
            loads.append(_load(program, side, "-duration=1s", "-warm-up=50"))
        fetching.result()
    return loads[:-1] or loads


def _rounds(options: Options, program: Path, sides: dict[str, Side], *arguments: str) -> Loads:
    """Load all sides in turns."""
    seconds, times = (1, 3) if options.is_quick else (3, 5)
    found: Loads = {name: [] for name in sides}
    for turn in range(times):
        for name, side in sides.items():
            load = _load(program, side, f"-duration={seconds}s", *arguments)
            found[name].append(load)
            options.log(
                f"round {turn + 1} {' '.join(arguments)}: {name} p50 {load.p50:.0f} us, "
                f"p99 {load.p99:.0f} us, {load.per_second:.0f} calls/s"
            )
    return found


def _load(program: Path, side: Side, *arguments: str) -> Load:
    before = processes.computed_by(side.process)
    done = subprocess.run(
        [program, "load", side.socket, *arguments], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    if result["failures"] or result["wrong"]:
        raise RuntimeError(
            f"{result['failures']} calls failed, {result['wrong']} were wrong: {result}"
        )
    return Load(
        p50=result["p50_us"],
        p99=result["p99_us"],
        per_second=result["calls_per_second"],
        calls=result["calls"],
        computed=processes.computed_by(side.process) - before,
    )


def _added(found: Loads, side: str) -> float:
    """Return the median over the rounds of the side's p50 less that of the direct connection."""
    pairs = zip(found[side], found["directly"], strict=True)
    return statistics.median(ours.p50 - directly.p50 for ours, directly in pairs)


def _median(loads: Iterable[Load], what: str) -> float:
    return statistics.median(float(getattr(each, what)) for each in loads)


@contextlib.contextmanager
def _ways(program: Path, directory: Path) -> Iterator[dict[str, Side]]:
    runtime, router = directory / "runtime.sock", directory / "router.sock"
    interposer, go = directory / "interposer.sock", directory / "go.sock"
    with contextlib.ExitStack() as stack:

        def start(socket: Path, *argv: str | Path) -> Side:
            process = stack.enter_context(running(*argv))
            wait_for(socket, process)
            return Side(socket, process.pid)

        yield {
            "directly": start(runtime, program, "serve", runtime),
            "interposer": start(interposer, *OURS, "interposer", interposer, runtime),
            "router": start(router, *OURS, "router", router, runtime, interposer),
            GO: start(go, program, "proxy", go, runtime),
        }


@contextlib.contextmanager
def running(*argv: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context lasts."""
    with subprocess.Popen(argv, cwd=_REPOSITORY) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_for(socket: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has created its socket; fail if it ends instead."""
    while not socket.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise RuntimeError(f"{process.args!r} ended with {process.wait(0.05)}")


def built(options: Options) -> Path:
    """Return the Go program; build it if its sources have changed."""
    sources = sorted(each for each in _PACKAGE.iterdir() if each.suffix in (".go", ".mod", ".sum"))
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:16]
    program = Path(tempfile.gettempdir()) / f"cri-proxy-bench-relay-{digest}"
    if not program.exists():
        options.log("building the Go programs")
        subprocess.run(["go", "build", "-o", program, "."], cwd=_PACKAGE, check=True)
    return program
