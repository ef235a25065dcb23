"""The cost of tracing: calls of a pod's startup with tracing off, stored on the node, and exported.

    client ──> directly                     ──> runtime
    client ──> cri-proxy, tracing off       ──> runtime
    client ──> cri-proxy, startups kept     ──> runtime
    client ──> cri-proxy, kept and sent     ──> runtime    by OTLP to a collector on this machine

All are separate processes, used in turns within one run. The pods are ordinary ones, whose calls
are the cheapest for the proxy, so that tracing weighs the most. The runtime is the recording one,
which answers at once, or a private containerd. A node starts a few pods per second; here they
follow each other without a pause. Latency on a busy machine is mostly caused by other programs, so
the daemon's processor time is measured as well.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import grpc

from cri_proxy.cri import api_pb2, methods
from hack.bench import figures, processes
from hack.bench.figures import Figure, Options
from hack.bench.relay import running, wait_for
from hack.testbed import containerd, images, kubelet, waiting
from hack.testbed.collector import Collector
from hack.testbed.pods import Pods
from hack.testbed.proxy import Proxy

INTERPOSED: Final = ("RunPodSandbox", "CreateContainer")
TRACED: Final = "StartContainer"
"""Only with tracing does it go through the interposer, so it pays for that detour as well."""
CALLS: Final = (*INTERPOSED, TRACED)
RELAYED: Final = "ListContainers"
OFF: Final = "off"
KEPT: Final = "kept"
SENT: Final = "sent"
DIRECTLY: Final = "directly"
_LIMIT: Final = 1.1
_REST_SECONDS: Final = 7.0
"""Longer than spans are buffered before export, so that the export counts as well."""

_numbers = itertools.count()
T = TypeVar("T")


@dataclass(slots=True)
class Side:
    """One way to the runtime, with the seconds of every call by method."""

    socket: Path
    process: int | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    computed: float = 0.0

    def timed(self, method: str, call: Callable[[], T]) -> T:
        """Make a call and record its duration."""
        begun = time.perf_counter()
        answer = call()
        self.seconds.setdefault(method, []).append(time.perf_counter() - begun)
        return answer

    def median(self, method: str) -> float:
        """Return the median duration of a method's calls, in microseconds."""
        return 1e6 * statistics.median(self.seconds[method])

    def above(self, other: Side, method: str) -> float:
        """Return the median difference to the other side's calls, in microseconds."""
        pairs = zip(self.seconds[method], other.seconds[method], strict=True)
        return 1e6 * statistics.median(ours - theirs for ours, theirs in pairs)


def main(argv: Sequence[str]) -> int:
    """Measure the cost of tracing for traced calls, and for a call that is only relayed."""
    return figures.main("tracing", argv, _measure)


def _measure(options: Options) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="cri-proxy-tracing-") as name:
        yield from _before_nothing(options, Path(name))
    if missing := containerd.lacks():
        options.log(f"no containerd: this machine lacks {', '.join(missing)}")
        return
    with tempfile.TemporaryDirectory(prefix="cri-proxy-tracing-") as name:
        yield from _before_containerd(options, Path(name))


def _before_nothing(options: Options, directory: Path) -> Iterator[Figure]:
    """Measure in front of a runtime that answers at once."""
    rounds = 300 if options.is_quick else 1500
    runtime = directory / "runtime.sock"
    with ExitStack() as stack:
        program = (sys.executable, "-m", "hack.bench.tracing.program", runtime)
        wait_for(runtime, stack.enter_context(running(*program)))
        collector = stack.enter_context(Collector())
        sides = _sides(stack, directory, runtime, collector)
        clients = {name: _Client(side) for name, side in sides.items()}
        for turn in range(rounds + 50):
            if turn == 50:  # warmed up
                for side in sides.values():
                    side.seconds.clear()
                    side.computed = -_computed(side)
            for name in _turned(tuple(sides), turn):
                clients[name].startup()
        time.sleep(_REST_SECONDS)
        for side in sides.values():
            side.computed += _computed(side)
        _received(collector, rounds)
        for turn in range(rounds // 10):  # not mixed with the background work of startups
            for name in _turned(tuple(sides), turn):
                for _ in range(10):
                    clients[name].poll()
    for method in (*CALLS, RELAYED):
        yield from _compared(sides, method, "runtime that takes no time")
    for name in (KEPT, SENT):
        yield Figure(
            name=f"processor time of the daemon for a startup, {name}",
            unit="us",
            ours=1e6 * sides[name].computed / rounds,
            theirs=1e6 * sides[OFF].computed / rounds,
            against=OFF,
        )


def _before_containerd(options: Options, directory: Path) -> Iterator[Figure]:
    """Measure in front of a real runtime."""
    rounds = 8 if options.is_quick else 40
    with ExitStack() as stack:
        runtime = stack.enter_context(containerd.Containerd())
        collector = stack.enter_context(Collector())
        sides = _sides(stack, directory, runtime.socket, collector)
        pods = {
            name: stack.enter_context(runtime.pods(side.socket)) for name, side in sides.items()
        }
        for turn in range(rounds + 1):
            if turn == 1:
                for side in sides.values():
                    side.seconds.clear()
            for name in _turned(tuple(sides), turn):
                _run_pod(sides[name], pods[name])
        _received(collector, rounds)
    for method in CALLS:
        yield from _compared(sides, method, "containerd")


def _sides(
    stack: ExitStack, directory: Path, runtime: Path, collector: Collector
) -> dict[str, Side]:
    tracing: dict[str, dict[str, object]] = {
        OFF: {"pods": "none"},
        KEPT: {},
        SENT: {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 2},
    }
    sides = {DIRECTLY: Side(runtime)}
    for name, settings in tracing.items():
        log = {"level": "info", "format": "json"}
        proxy = Proxy(directory / name, runtime, {"tracing": settings, "log": log})
        stack.enter_context(proxy)
        sides[name] = Side(proxy.socket, proxy.pid)
    return sides


def _turned(names: Sequence[str], turn: int) -> Sequence[str]:
    """Return the names in a different order each turn, so that the order has no influence."""
    first = turn % len(names)
    return (*names[first:], *names[:first])


def _compared(sides: dict[str, Side], method: str, runtime: str) -> Iterator[Figure]:
    """Compare the durations of a method's calls with and without tracing.

    The added time is the median difference within a turn, which other load on the machine disturbs
    less than the difference of the medians.
    """
    off = sides[OFF]
    added_off = off.above(sides[DIRECTLY], method)
    for name in (KEPT, SENT):
        added = sides[name].above(off, method)
        yield Figure(
            name=f"{method}, {runtime}, {name}",
            unit="us",
            ours=off.median(method) + added,
            theirs=off.median(method),
            against=OFF,
            limit=_LIMIT if name == SENT and method != TRACED else None,
            note=f"adds {added:.0f} to the {added_off:.0f} of the way through the proxy",
        )


def _computed(side: Side) -> float:
    return 0.0 if side.process is None else processes.computed_by(side.process)


def _received(collector: Collector, count: int) -> None:
    """Wait until the collector has received all startups."""
    waiting.until(
        lambda: len(collector.spans("pod.startup")) >= count,
        what="the collector to have all startups",
        explain=lambda: f"it has {len(collector.spans('pod.startup'))} of {count}",
    )


class _Client:
    """kubelet's calls of one startup, as bytes, through one side."""

    def __init__(self, side: Side) -> None:
        self._side = side
        channel = grpc.insecure_channel(
            f"unix://{side.socket}", options=[("grpc.default_authority", "localhost")]
        )
        self._calls = {
            method: channel.unary_unary(methods.path_of(method), None, None)
            for method in (*CALLS, RELAYED)
        }

    def startup(self) -> None:
        """Start a pod of one container."""
        number = next(_numbers)
        sandbox = _sandbox(number)
        run = api_pb2.RunPodSandboxRequest(config=sandbox)
        create = api_pb2.CreateContainerRequest(
            pod_sandbox_id="sandbox",
            sandbox_config=sandbox,
            config=_container(),
        )
        answer = self._call("RunPodSandbox", run.SerializeToString())
        answer = self._call("CreateContainer", create.SerializeToString())
        made = api_pb2.CreateContainerResponse.FromString(answer)
        start = api_pb2.StartContainerRequest(container_id=made.container_id)
        self._call("StartContainer", start.SerializeToString())

    def poll(self) -> None:
        """Make the call that kubelet makes every second."""
        self._call(RELAYED, b"")

    def _call(self, method: str, payload: bytes) -> bytes:
        call = self._calls[method]
        answer: bytes = self._side.timed(method, lambda: call(payload, timeout=120))
        return answer


def _sandbox(number: int) -> api_pb2.PodSandboxConfig:
    """Return a pod sandbox configuration of typical size."""
    labels = {f"app.kubernetes.io/label-{each}": "value" for each in range(6)}
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(
            name=f"web-{number}", uid=f"00000000-0000-4000-8000-{number:012x}", namespace="shop"
        ),
        hostname="web",
        log_directory=f"/var/log/pods/shop_web_{number}",
        labels=labels,
        annotations={"kubernetes.io/config.seen": "2026-01-01T00:00:00Z"},
    )


def _container() -> api_pb2.ContainerConfig:
    """Return a container configuration of typical size."""
    variables = [
        api_pb2.KeyValue(key=f"SHOP_SERVICE_{each}", value=b"10.96.0.1") for each in range(40)
    ]
    mounts = [
        api_pb2.Mount(container_path=f"/mnt/{each}", host_path=f"/var/lib/kubelet/pods/{each}")
        for each in range(5)
    ]
    return api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="main"),
        image=api_pb2.ImageSpec(image="sha256:1", user_specified_image="shop/web:1"),
        command=["serve"],
        envs=variables,
        mounts=mounts,
    )


def _run_pod(side: Side, pods: Pods) -> None:
    """Start a pod of one container, time the calls, and remove it."""
    pod = side.timed("RunPodSandbox", lambda: pods.run_pod(f"bench-{next(_numbers)}"))
    with pod:
        spec = kubelet.Spec(image=images.BUSYBOX, command=("sleep", "1000"))
        container = side.timed("CreateContainer", lambda: pod.create(spec))
        side.timed("StartContainer", container.start)
