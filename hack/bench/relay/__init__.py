"""Forwarding a call, compared with a transparent proxy in Go; client and runtime are in Go, too.

    load (Go) --> runtime (Go)                        directly
    load (Go) --> router (ours)        --> runtime    calls that are not interposed
    load (Go) --> interposer (ours)    --> runtime    as with --no-router
    load (Go) --> siderolabs/grpc-proxy --> runtime   the other side
    load (Go) --> koord-runtime-proxy  --> runtime    a third, if it can be built (`koordinator`)

All are separate processes, measured in turns within one run. The added latency of a proxy is its
time less that of the direct connection in the same round. Needs `go`; the modules are pinned in
go.mod. The file has more than 350 lines because it is one list of figures with one way to measure
them.
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.bench import figures, filesystems, material
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
    for side in "router", "interposer":
        yield Figure(
            name=f"small call, added p50 by the {side}",
            unit="us",
            ours=_added(found, side),
            theirs=_added(found, GO),
            against=GO,
            limit=0.4 if side == "router" else None,
        )
    yield Figure(
        name="small call, p99 through the router",
        unit="us",
        ours=_median(found["router"], "p99"),
        theirs=_median(found[GO], "p99"),
        against=GO,
        limit=1.0,
    )
    yield Figure(
        name="small call, p50 directly",
        unit="us",
        ours=_median(found["directly"], "p50"),
    )


def _in_flight(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    found = _rounds(options, program, sides, "-in-flight", "16")
    yield Figure(
        name="16 in flight",
        unit="calls/s",
        ours=_median(found["router"], "per_second"),
        theirs=_median(found[GO], "per_second"),
        against=GO,
        limit=1.8,
        is_floor=True,
        note=f"directly {_median(found['directly'], 'per_second'):.0f}, "
        f"interposer {_median(found['interposer'], 'per_second'):.0f}",
    )
    yield _computing("computing of the proxy for 10,000 calls, 16 in flight", found, GO, limit=0.5)


def _large(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    found = _rounds(options, program, sides, "-answer-bytes", str(1 << 20))
    yield Figure(
        name="answer of 1 MiB, added p50 by the router",
        unit="us",
        ours=_added(found, "router"),
        theirs=_added(found, GO),
        against=GO,
        limit=1.0,
    )


def _beside_work(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    """Measure beside processes like the realizer's workers, with niceness 10 and regular yields."""
    two = {name: sides[name] for name in ("router", GO)}
    idle = _rounds(options, program, two)
    with contextlib.ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0))):
            stack.enter_context(running(sys.executable, "-c", _BUSY))
        busy = _rounds(options, program, two)
    router = _median(busy["router"], "p99")
    yield Figure(
        name="p99 beside nice work on all processors",
        unit="us",
        ours=router,
        theirs=_median(idle["router"], "p99"),
        against="the same without",
        limit=3.0,
    )
    yield Figure(
        name="p99 beside nice work on all processors",
        unit="us",
        ours=router,
        theirs=_median(busy[GO], "p99"),
        against=GO,
        limit=1.0,
    )


def _beside_realizing(options: Options, program: Path, sides: dict[str, Side]) -> Iterator[Figure]:
    """Measure while the daemon's workers fetch, unpack and verify a closure of a gigabyte."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=100, files=20_000 // scale, bytes=1_000_000_000 // scale)
    made = material.published(options, shape, "zstd")
    two = {name: sides[name] for name in ("router", GO)}
    idle = _rounds(options, program, two)
    busy: dict[str, list[Load]] = {name: [] for name in two}
    for _ in range(3 if options.is_quick else 5):
        for name, side in two.items():
            busy[name] += _while_fetching(program, side, made)
            options.log(f"beside realizing: {name} p99 {_median(busy[name], 'p99'):.0f} us")
    what = f"p99 while {shape.bytes // 1_000_000} MB are realized"
    router = _median(busy["router"], "p99")
    yield Figure(
        name=what,
        unit="us",
        ours=router,
        theirs=_median(idle["router"], "p99"),
        against="the same without",
        limit=3.0,
    )
    yield Figure(
        name=what,
        unit="us",
        ours=router,
        theirs=_median(busy[GO], "p99"),
        against=GO,
        limit=1.0,
    )


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
    yield Figure(
        name="empty answer, added p50 by the router",
        unit="us",
        ours=_added(one, "router"),
        theirs=_added(one, name),
        against=name,
    )
    yield Figure(
        name="empty answer, p99 through the router",
        unit="us",
        ours=_median(one["router"], "p99"),
        theirs=_median(one[name], "p99"),
        against=name,
    )
    yield Figure(
        name="empty answers, 16 in flight",
        unit="calls/s",
        ours=_median(many["router"], "per_second"),
        theirs=_median(many[name], "per_second"),
        against=name,
    )
    yield _computing("computing for 10,000 empty answers, 16 in flight", many, name, limit=None)


def _computing(name: str, found: dict[str, list[Load]], other: str, limit: float | None) -> Figure:
    ours, theirs = (
        statistics.median(each.computed / each.calls for each in found[side]) * 10_000
        for side in ("router", other)
    )
    return Figure(name=name, unit="s", ours=ours, theirs=theirs, against=other, limit=limit)


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


def _rounds(
    options: Options, program: Path, sides: dict[str, Side], *arguments: str
) -> dict[str, list[Load]]:
    """Load all sides in turns."""
    seconds, times = (1, 3) if options.is_quick else (3, 5)
    found: dict[str, list[Load]] = {name: [] for name in sides}
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
    before = _computed_by(side.process)
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
        computed=_computed_by(side.process) - before,
    )


def _computed_by(process: int) -> float:
    """Return the processor time of a process and all its threads, in seconds: proc(5)."""
    behind_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(behind_name[11]) + int(behind_name[12])) / os.sysconf("SC_CLK_TCK")


def _added(found: dict[str, list[Load]], side: str) -> float:
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
