"""Starting pods in environments, compared with pods from images, on one private containerd.

    cold      an empty node: time to the first correct output, compared with pulling an image of
              the same content from a registry on this machine
    changed   the same after one package of the environment has changed
    warm      everything on the node, compared with the same program in a local image
    node      the cost of the daemon (`node`)

Our side is the whole daemon between kubelet's calls and containerd; pods from images run directly
on containerd. All files of both are on one fresh file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy.model.storepaths import StorePath
from hack.bench import figures, filesystems, material, origin, rounds
from hack.bench.figures import Figure, Options
from hack.bench.material import Material, Shape
from hack.bench.pods import layers, node, starts
from hack.testbed import binary_cache, environments, images
from hack.testbed.containerd import Containerd
from hack.testbed.environments import Package
from hack.testbed.floxhub import FloxHub
from hack.testbed.pods import Pods
from hack.testbed.proxy import Proxy
from hack.testbed.registry import Layer, Registry

REFERENCE: Final = "bench/web"


def main(argv: Sequence[str]) -> int:
    """Measure all figures of pods."""
    return figures.main("pods", argv, _measure)


def _measure(options: Options) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="cri-proxy-bench-", dir="/dev/shm") as scratch:
        yield from node.measure(options, Path(scratch))
    with contextlib.ExitStack() as stack:
        bench = _bench(options, stack)
        yield from _cold(options, bench)
        yield from _warm(options, bench)


@dataclass(slots=True)
class _Bench:
    """The setup that both sides share, and the state that rounds leave for later ones."""

    scratch: Path
    made: Material
    tools: Package
    containerd: Containerd
    registry: Registry
    hub: FloxHub
    settings: dict[str, dict[str, object]]
    layer_files: list[Path]
    stack: contextlib.ExitStack
    round: int = 0
    layers: list[Layer] = field(default_factory=list)
    pods: Pods | None = None
    proxy: Proxy | None = None

    def check(self, path: StorePath) -> tuple[str, str]:
        """Return a shell command that reads a file of `path`, and its expected output."""
        name = f"/nix/store/{path.basename}/share/{path.basename}/part-0/file-0"
        with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
            material.fetched(self.made, path, Path(scratch, "tree"))
            data = Path(scratch, "tree", *Path(name).parts[4:]).read_bytes()
        return f"sha256sum {name}", f"{hashlib.sha256(data).hexdigest()}  {name}"

    def push(self, roots: Sequence[StorePath]) -> None:
        """Push a generation of the environment with these packages and the tools."""
        packages = [Package(f"package-{number}", path) for number, path in enumerate(roots)]
        owner, _, name = REFERENCE.partition("/")
        self.hub.push(owner, name, environments.lockfile(self.tools, *packages))

    def node(self) -> Pods:
        """Return a client of a new proxy with an empty store."""
        self.round += 1
        directory = self.scratch / f"p{self.round}"
        kubelet_root = self.containerd.pods().directory / "kubelet"
        proxy = Proxy(directory, self.containerd.socket, self.settings, kubelet_root=kubelet_root)
        self.proxy = self.stack.enter_context(proxy)
        self.pods = self.stack.enter_context(self.containerd.pods(proxy.socket))
        return self.pods

    def salt(self, files: Sequence[Path], salt: str) -> list[Layer]:
        """Return layers that the runtime does not know."""
        return [
            layers.salted(file, f"{salt}-{number}", self.scratch / f"{salt}-{number}.tar.gz")
            for number, file in enumerate(files)
        ]

    def start_of_image(self, name: str, path: StorePath) -> float:
        """Return the seconds to the first correct output of a pod from an image."""
        command, expected = self.check(path)
        with self.containerd.pods() as pods:
            return _correct(starts.of_pod(pods, name, command), expected)

    def offer(self, tag: str, of: Sequence[Layer]) -> str:
        """Push an image to the registry; return its name."""
        tools = f"/nix/store/{self.tools.path.basename}/bin"
        return self.registry.put("web", tag, of, env=[f"PATH={tools}"])

    def start_of_environment(self, pods: Pods, path: StorePath) -> float:
        """Return the seconds to the first correct output of an annotated pod."""
        command, expected = self.check(path)
        started = starts.of_pod(pods, images.EMPTY, command, environment=REFERENCE)
        return _correct(started, expected)


def _bench(options: Options, stack: contextlib.ExitStack) -> _Bench:
    """Set everything up; `stack` tears it down."""
    scale = 10 if options.is_quick else 1
    shape = Shape(paths=300, files=12_000 // scale, bytes=500_000_000 // scale)
    made = material.published(options, shape, "zstd")
    scratch = stack.enter_context(filesystems.fresh(gibibytes=12))
    publisher = binary_cache.Publisher(scratch / "tools")
    tools = environments.tools(publisher)
    tree = scratch / "tree"
    binary_cache.write_tree(tree, environments.tools_files())
    files = layers.made(options, made, [(tools.path, tree)])
    stack.enter_context(_temporary(scratch))
    registry = stack.enter_context(Registry())
    hub = stack.enter_context(FloxHub(scratch / "hub", kind="git"))
    cache = stack.enter_context(origin.serving(made.directory, delay=0.0))
    second = stack.enter_context(origin.serving(publisher.directory, delay=0.0))
    containerd = stack.enter_context(Containerd())
    settings: dict[str, dict[str, object]] = {
        "floxhub": {"url": hub.url, "git_url": hub.git_url, "remember_seconds": 0},
        "store": {
            "caches": [cache, second],
            "public_keys": [made.public_key, publisher.public_key],
        },
        "log": {"level": "info"},
    }
    return _Bench(scratch, made, tools, containerd, registry, hub, settings, files, stack)


def _cold(options: Options, bench: _Bench) -> Iterator[Figure]:
    """Measure a start on an empty node, then a start after a small change."""
    changed: dict[str, list[float]] = {"ours": [], "whole": [], "layered": []}
    last, (new,) = bench.made.roots[-1], set(bench.made.changed) - set(bench.made.roots)

    def ours() -> float:
        bench.push(bench.made.roots)
        pods = bench.node()
        seconds = bench.start_of_environment(pods, last)
        bench.push(bench.made.changed)
        changed["ours"].append(bench.start_of_environment(pods, new))
        return seconds

    def image() -> float:
        salt = f"r{bench.round}"
        base = bench.salt(bench.layer_files[:-1], salt)
        seconds = bench.start_of_image(bench.offer(salt, base), last)
        top = bench.salt(bench.layer_files[-1:], f"{salt}-top")
        name = bench.offer(f"{salt}-layered", [*base[:-1], *top])
        changed["layered"].append(bench.start_of_image(name, new))
        files = [*bench.layer_files[:-2], bench.layer_files[-1]]
        name = bench.offer(f"{salt}-whole", bench.salt(files, f"{salt}-whole"))
        changed["whole"].append(bench.start_of_image(name, new))
        return seconds

    results = rounds.run(
        options, {"ours": ours, "image": image}, times=2 if options.is_quick else 3
    )
    name = bench.made.describe()
    yield Figure(
        name=f"cold pod, {name}",
        unit="s",
        ours=results.median("ours"),
        theirs=results.median("image"),
        against="pulling an image",
        limit=0.5,
    )
    for side, against, limit in (
        ("whole", "pulling the new image", 0.1),
        ("layered", f"pulling 1 of {layers.COUNT} layers", None),
    ):
        yield Figure(
            name="one package of 300 changed",
            unit="s",
            ours=rounds.median(changed["ours"]),
            theirs=rounds.median(changed[side]),
            against=against,
            limit=limit,
        )


def _warm(options: Options, bench: _Bench) -> Iterator[Figure]:
    """Measure starts with everything on the node, the same program on both sides.

    FloxHub's answers are cached for the default time: a query to a FloxHub on this machine would
    not be waiting time, as on a node, but processor time.
    """
    assert bench.pods is not None
    assert bench.proxy is not None
    through = bench.pods
    bench.proxy.configure({"floxhub": {"remember_seconds": 10}})
    bench.proxy.restart()

    def ours() -> float:
        started = starts.of_pod(through, images.EMPTY, "echo started", environment=REFERENCE)
        return _correct(started, "started")

    def image() -> float:
        with bench.containerd.pods() as pods:
            return _correct(starts.of_pod(pods, images.BUSYBOX, "echo started"), "started")

    results = rounds.run(
        options, {"ours": ours, "image": image}, times=5 if options.is_quick else 15
    )
    yield Figure(
        name="warm pod",
        unit="s",
        ours=results.median("ours"),
        theirs=results.median("image"),
        against="a local image",
        limit=1.05,
    )
    yield Figure(
        name="warm pod, slowest",
        unit="s",
        ours=results.worst("ours"),
        theirs=results.worst("image"),
        against="a local image",
    )


def _correct(started: starts.Start, expected: str) -> float:
    if started.output != expected:
        raise AssertionError(f"a pod printed {started.output!r} instead of {expected!r}")
    return started.until_output


@contextlib.contextmanager
def _temporary(scratch: Path) -> Iterator[None]:
    """Make temporary directories on the fresh file system."""
    before = tempfile.tempdir
    tempfile.tempdir = str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = before
