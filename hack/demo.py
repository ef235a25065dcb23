"""The demo: a pod without an image, from nothing to an answer over HTTP, on this machine.

    make demo                 what there is to see, in a minute; leaves nothing behind
    DEMO_KEEP=1 make demo     the same, then everything stays until Ctrl-C

Everything is real and local: a private containerd with runc and a bridge network, a FloxHub (git
over smart HTTP), a signed binary cache over HTTP, and cri-proxy between all of them. The demo plays
kubelet: it makes the calls that kubelet makes, through cri-proxy's socket. What it prints has been
checked: it exits with 0 only if all of it held.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hack.testbed import containerd, environments, images, waiting
from hack.testbed.binary_cache import Publisher
from hack.testbed.file_server import FileServer
from hack.testbed.floxhub import FloxHub
from hack.testbed.kubelet import Spec
from hack.testbed.pods import Container, Pod, Pods
from hack.testbed.proxy import Proxy

REFERENCE: Final = "demo/web"
PORT: Final = 8080
PAGE: Final = "Hello from {}, generation 1: this pod has no image.\n"
ORDINARY: Final = "Hello from an ordinary pod.\n"


class NotAsPromised(Exception):
    """Something that the demo shows does not hold."""


@dataclass(slots=True)
class Startup:
    """How long the steps of one pod's start took, in seconds."""

    title: str
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        begun = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - begun))

    @property
    def total(self) -> float:
        """All steps together."""
        return sum(seconds for _, seconds in self.steps)


@dataclass(slots=True)
class Running:
    """A pod of the demo that answers over HTTP."""

    pod: Pod
    container: Container
    startup: Startup
    url: str
    answer: str


def main() -> int:
    """Run the demo; return the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    if missing := containerd.lacks():
        console.print(f"[red]This machine lacks {escape('; '.join(missing))}.[/]")
        console.print("Run 'make demo' as root: it installs what a Debian machine lacks.")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="cri-proxy-demo-") as directory:
            _demonstrate(console, Path(directory))
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything was taken down.")
        return 130
    except (NotAsPromised, AssertionError, waiting.NeverHappened) as error:
        console.print(f"\n[red]Not as promised:[/] {escape(str(error))}")
        return 1
    console.print("[green]All of this was verified,[/] and nothing of it is left on this machine.")
    return 0


def _demonstrate(console: Console, directory: Path) -> None:
    """Show everything, one chapter after the other."""
    with contextlib.ExitStack() as stack:
        console.print("[bold]cri-proxy demo[/]: a node, without kubelet, on this machine\n")
        publisher = Publisher(directory / "cache")
        cache = stack.enter_context(FileServer(publisher.directory))
        hub = stack.enter_context(FloxHub(directory / "floxhub"))
        paths = _push(publisher, hub)
        runtime = stack.enter_context(containerd.Containerd())
        kubelet_root = runtime.pods().directory / "kubelet"
        settings: dict[str, dict[str, object]] = {
            "floxhub": {"url": hub.url, "git_url": hub.git_url},
            "store": {"caches": [cache.url], "public_keys": [publisher.public_key]},
        }
        proxy = Proxy(directory / "proxy", runtime.socket, settings, kubelet_root=kubelet_root)
        stack.enter_context(proxy)
        pods = stack.enter_context(runtime.pods(proxy.socket))
        console.print(f"  runtime       containerd {runtime.version()} at {runtime.socket}")
        console.print(f"  FloxHub       {hub.url}, where {REFERENCE} has been pushed")
        console.print(f"  binary cache  {cache.url}, signed by {publisher.key.public.name}")
        console.print(f"  cri-proxy     {proxy.socket}, in front of the runtime\n")

        console.print(f"[bold]1. A pod annotated flox.dev/environment: {REFERENCE}[/], image empty")
        cold = _start(pods, "web", "cold: nothing of it was on the node")
        _expect(cold.answer == PAGE.format(REFERENCE), f"{cold.url} answered {cold.answer!r}")
        console.print(f"  GET {cold.url}  →  [green]{escape(cold.answer.strip())}[/]")
        _show_inside(console, cold.container, paths)

        console.print("\n[bold]2. An ordinary pod beside it[/], with an image and no annotation")
        plain = _start_ordinary(pods)
        _expect(plain.answer == ORDINARY, f"{plain.url} answered {plain.answer!r}")
        console.print(f"  GET {plain.url}  →  [green]{escape(plain.answer.strip())}[/]")

        console.print("\n[bold]3. The annotated pod once more[/]: its environment is on the node")
        requests = cache.count()
        warm = _start(pods, "web-again", "warm: all of it was on the node")
        _expect(warm.answer == PAGE.format(REFERENCE), f"{warm.url} answered {warm.answer!r}")
        _expect(cache.count() == requests, "the second start asked the binary cache again")
        console.print(f"  GET {warm.url}  →  [green]{escape(warm.answer.strip())}[/]")
        console.print("  and the binary cache was not asked for anything\n")

        console.print(_timings(cold.startup, plain.startup, warm.startup))
        if os.environ.get("DEMO_KEEP") == "1":
            _keep(console, runtime, proxy, cold)


def _push(publisher: Publisher, hub: FloxHub) -> set[str]:
    """Publish the packages, push the environment; return the names of its store paths."""
    site = {"share/site/index.html": PAGE.format(REFERENCE).encode()}
    packages = [environments.tools(publisher), environments.package(publisher, "demo-site", site)]
    owner, _, name = REFERENCE.partition("/")
    hub.push(owner, name, environments.lockfile(*packages, variables={"GREETING": "hello"}))
    return {package.path.basename for package in packages}


def _start(pods: Pods, name: str, title: str) -> Running:
    """Start an annotated pod; its image is empty, its command comes from the environment."""
    startup = Startup(title)
    serve = f'exec httpd -f -p {PORT} -h "$FLOX_ENV/share/site"'
    with startup.step("RunPodSandbox"):
        pod = pods.run_pod(name, {"flox.dev/environment": REFERENCE})
    return _serve(startup, pod, Spec(image=images.PLACEHOLDER, command=("sh", "-c", serve)))


def _start_ordinary(pods: Pods) -> Running:
    """Start a pod that does not know cri-proxy."""
    startup = Startup("ordinary: its image was on the node")
    serve = f"echo {ORDINARY.strip()!r} >/tmp/index.html; exec httpd -f -p {PORT} -h /tmp"
    with startup.step("RunPodSandbox"):
        pod = pods.run_pod("ordinary")
    return _serve(startup, pod, Spec(image=images.BUSYBOX, command=("sh", "-c", serve)))


def _serve(startup: Startup, pod: Pod, spec: Spec) -> Running:
    """Create and start the container of a pod, and ask it over HTTP."""
    with startup.step("CreateContainer"):
        container = pod.create(spec)
    with startup.step("StartContainer"):
        container.start()
    url = f"http://{pod.ip()}:{PORT}/"
    with startup.step("first answer"):
        answer = waiting.until(lambda: _get(url), what=f"an answer from {url}")
    return Running(pod, container, startup, url, answer)


def _get(url: str) -> str | None:
    """Return what `url` answers, None while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        return None


def _show_inside(console: Console, container: Container, paths: set[str]) -> None:
    """Show what the program sees: the closure, all of it and nothing else, and read-only."""
    listed = container.exec_sync(["ls", "/nix/store"]).stdout.decode().split()
    environment = [name for name in listed if name.endswith("-environment-run")]
    _expect(set(listed) == {*paths, *environment}, f"/nix/store lists {listed}")
    _expect(len(environment) == 1, f"/nix/store has {len(environment)} environments")
    written = container.exec_sync(["sh", "-c", "touch /nix/store/mine"])
    _expect(written.exit_code != 0, "root in the container could write to /nix/store")
    process = container.exec_sync(["sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"]).stdout.decode()
    _expect(process.startswith("httpd"), f"process 1 is {process!r}")
    console.print("  $ ls /nix/store")
    for name in listed:
        console.print(f"      {name}")
    console.print(f"  $ touch /nix/store/mine\n      {written.stderr.decode().strip()}")
    console.print(f"  process 1 is the program itself: {process.strip()}")


def _timings(*startups: Startup) -> Table:
    """Return the startups side by side, in milliseconds."""
    table = Table("start of a pod", title="Milliseconds", title_justify="left", box=None)
    for name, _ in startups[0].steps:
        table.add_column(name, justify="right")
    table.add_column("together", justify="right", style="bold")
    for startup in startups:
        cells = [f"{seconds * 1000:.0f}" for _, seconds in startup.steps]
        table.add_row(startup.title, *cells, f"{startup.total * 1000:.0f}")
    return table


def _keep(console: Console, runtime: containerd.Containerd, proxy: Proxy, cold: Running) -> None:
    """Leave everything running until somebody interrupts."""
    command = " ".join(proxy.argv("environments"))
    console.print("\n[bold]Everything keeps running. Look around from another terminal:[/]")
    console.print(f"  curl {cold.url}")
    console.print(f"  {command}")
    console.print(f"  {command.replace('environments', 'check')}")
    console.print(f"  tail -f {proxy.log}")
    console.print(f"  ls {proxy.root}/store {proxy.environments}")
    shell = f"tasks exec -t --exec-id me {cold.container.id} sh"
    console.print(f"  ctr --address {runtime.socket} --namespace k8s.io {shell}")
    console.print("[bold]Ctrl-C takes everything down.[/]")
    signal.pause()


def _expect(holds: bool, otherwise: str) -> None:
    """Go on only if what is shown holds."""
    if not holds:
        raise NotAsPromised(otherwise)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """Treat SIGTERM as Ctrl-C, so that everything is taken down."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
