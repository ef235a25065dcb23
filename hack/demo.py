"""The demo: start a pod without an image on this machine, and get an answer from it over HTTP.

    make demo                 run the demo, which takes a minute and leaves nothing behind
    DEMO_KEEP=1 make demo     the same, but keep everything running until Ctrl-C

Everything is real and local: a private containerd with runc and a bridge network, a FloxHub (git
over smart HTTP), a signed binary cache over HTTP, and cri-proxy between them. The demo plays
kubelet: it makes kubelet's calls through cri-proxy's socket. It verifies everything that it prints,
and exits with 0 only if all of it is true.

All of its files are in the directory of the private containerd, which is always removed: on Ctrl-C,
SIGTERM and a closed terminal by the demo, after SIGKILL by the testbed's guard. The output fits
into 80 columns; only lines that are meant to be copied may be longer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hack.testbed import containerd, environments, images, waiting
from hack.testbed.binary_cache import Publisher
from hack.testbed.floxhub import FloxHub
from hack.testbed.kubelet import Spec
from hack.testbed.pods import Container, Pod, Pods
from hack.testbed.proxy import Proxy
from hack.testbed.web import FileServer

REFERENCE: Final = "demo/web"
PORT: Final = 8080
PAGE: Final = "Hello from {}, generation 1: this pod has no image.\n"
ORDINARY: Final = "Hello from an ordinary pod.\n"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOG_BYTES: Final = 3000


class DemoFailure(Exception):
    """Something that the demo shows is not as expected."""


@dataclass(slots=True)
class Startup:
    """The durations of the steps of one pod's start, in seconds."""

    title: str
    steps: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        begun = time.monotonic()
        yield
        self.steps[name] = time.monotonic() - begun


@dataclass(slots=True)
class Running:
    """A pod of the demo that answers over HTTP."""

    pod: Pod
    container: Container
    startup: Startup
    url: str
    answer: str


class Interruption:
    """Turns the first signal to stop into a KeyboardInterrupt, and ignores later ones.

    While it is `held`, the signal is deferred: a program that is just being started would not be
    known yet to the clean-up.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._has_come = False
        for number in _SIGNALS:
            signal.signal(number, self._come)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Defer the signal until the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._has_come:
                raise KeyboardInterrupt

    def _come(self, _number: int, _frame: object) -> None:
        if not self._has_come:
            self._has_come = True
            if not self._is_held:
                raise KeyboardInterrupt


def main() -> int:
    """Run the demo; return the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    if missing := containerd.lacks():
        console.print(f"[red]This machine lacks {escape('; '.join(missing))}.[/]")
        console.print("Run 'make demo' as root: on Debian and Ubuntu it installs what is missing.")
        return 1
    interruption = Interruption()
    try:
        _demonstrate(console, interruption)
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything that the demo started has been removed.")
        return 130
    except (DemoFailure, AssertionError) as error:
        console.print(f"\n[red]Failed:[/] {escape(str(error))}")
        return 1
    except grpc.RpcError as error:
        console.print(f"\n[red]Failed:[/] {escape(f'{error.code()}: {error.details()}')}")
        return 1
    console.print("[green]All of this was verified,[/] and everything has been removed again.")
    return 0


def _demonstrate(console: Console, interruption: Interruption) -> None:
    """Show everything, one chapter after the other."""
    with contextlib.ExitStack() as stack:
        console.print("[bold]cri-proxy demo[/]: a node without kubelet, on this machine\n")
        runtime = stack.enter_context(containerd.Containerd())
        directory = runtime.directory / "demo"
        publisher = Publisher(directory / "cache")
        cache = stack.enter_context(FileServer(publisher.directory))
        hub = stack.enter_context(FloxHub(directory / "floxhub"))
        paths = _push(publisher, hub)
        settings: dict[str, dict[str, object]] = {
            "floxhub": {"url": hub.url, "git_url": hub.git_url},
            "store": {"caches": [cache.url], "public_keys": [publisher.public_key]},
        }
        kubelet_root = runtime.directory / "kubelet"
        proxy = Proxy(directory / "proxy", runtime.socket, settings, kubelet_root=kubelet_root)
        stack.push(_Explanation(console, proxy))
        stack.callback(proxy.stop)
        with interruption.held():
            proxy.start(awaited=False)
        waiting.until(proxy.socket.exists, what="cri-proxy to listen")
        pods = stack.enter_context(runtime.pods(proxy.socket))
        console.print(f"  containerd    {runtime.version()}, with runc and a bridge network")
        console.print("  cri-proxy     in front of it, with its own CRI socket")
        console.print(f"  FloxHub       {hub.url}, with the environment {REFERENCE}")
        console.print(f"  binary cache  {cache.url}, signed by {publisher.key.public.name}\n")

        console.print(f"[bold]1. A pod annotated flox.dev/environment: {REFERENCE}[/], empty image")
        cold = _start(pods, "web", "cold")
        _show_answer(console, cold, PAGE.format(REFERENCE))
        _show_inside(console, cold.container, paths)

        console.print("\n[bold]2. An ordinary pod beside it[/], with an image and no annotation")
        plain = _start_ordinary(pods)
        _show_answer(console, plain, ORDINARY)

        console.print("\n[bold]3. The annotated pod again[/]: its environment is on the node")
        requests = cache.count()
        warm = _start(pods, "web-again", "warm")
        _expect(cache.count() == requests, "the second start made requests to the binary cache")
        _show_answer(console, warm, PAGE.format(REFERENCE))
        console.print("  No request was made to the binary cache.")

        console.print("\n[bold]Time to the first answer[/]")
        console.print(_timings(cold.startup, warm.startup, plain.startup))
        console.print("  cold, warm  the annotated pod, with nothing or everything on the node")
        console.print("  ordinary    the pod with an image, which was on the node\n")
        if os.environ.get("DEMO_KEEP") == "1":
            _keep(console, runtime, proxy, cold)


def _push(publisher: Publisher, hub: FloxHub) -> set[str]:
    """Publish the packages, and push the environment; return the names of its store paths."""
    site = {"share/site/index.html": PAGE.format(REFERENCE).encode()}
    packages = [environments.tools(publisher), environments.package(publisher, "demo-site", site)]
    owner, _, name = REFERENCE.partition("/")
    hub.push(owner, name, environments.lockfile(*packages, variables={"GREETING": "hello"}))
    return {package.path.basename for package in packages}


def _start(pods: Pods, name: str, title: str) -> Running:
    """Start an annotated pod; its image is empty, its command comes from the environment."""
    startup = Startup(title)
    serve = f'cd "$FLOX_ENV/share/site" && exec httpd -f -p {PORT}'
    with startup.step("RunPodSandbox"):
        pod = pods.run_pod(name, {"flox.dev/environment": REFERENCE})
    return _serve(startup, pod, Spec(image=images.PLACEHOLDER, command=("sh", "-c", serve)))


def _start_ordinary(pods: Pods) -> Running:
    """Start a pod without annotations."""
    startup = Startup("ordinary")
    serve = f"echo {ORDINARY.strip()!r} >/tmp/index.html; exec httpd -f -p {PORT} -h /tmp"
    with startup.step("RunPodSandbox"):
        pod = pods.run_pod("ordinary")
    return _serve(startup, pod, Spec(image=images.BUSYBOX, command=("sh", "-c", serve)))


def _serve(startup: Startup, pod: Pod, spec: Spec) -> Running:
    """Create and start the container of a pod, and make an HTTP request to it."""
    with startup.step("CreateContainer"):
        container = pod.create(spec)
    with startup.step("StartContainer"):
        container.start()
    url = f"http://{pod.ip()}:{PORT}/"
    with startup.step("first answer"):
        answer = waiting.until(lambda: _get(url), what=f"an answer from {url}")
    return Running(pod, container, startup, url, answer)


def _get(url: str) -> str | None:
    """Return the answer of `url`; None while it refuses connections."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _show_answer(console: Console, running: Running, expected: str) -> None:
    """Show a pod's answer over HTTP, if it is the expected one."""
    _expect(running.answer == expected, f"{running.url} answered {running.answer!r}")
    console.print(f"  GET {running.url}")
    console.print(f"      [green]{escape(running.answer.strip())}[/]")


def _show_inside(console: Console, container: Container, paths: set[str]) -> None:
    """Show what the program sees: exactly the closure, and read-only."""
    listed = container.exec_sync(["ls", "/nix/store"]).stdout.decode().split()
    environment = [name for name in listed if name.endswith("-environment-run")]
    _expect(set(listed) == {*paths, *environment}, f"/nix/store lists {listed}")
    _expect(len(environment) == 1, f"/nix/store has {len(environment)} environments")
    written = container.exec_sync(["sh", "-c", "touch /nix/store/mine"])
    _expect(written.exit_code != 0, "root in the container could write to /nix/store")
    show = "tr '\\0' ' ' </proc/1/cmdline"
    process = container.exec_sync(["sh", "-c", show]).stdout.decode().strip()
    _expect(process == f"httpd -f -p {PORT}", f"process 1 is {process!r}")
    console.print("  $ ls /nix/store")
    for name in listed:
        console.print(f"      {name}")
    console.print(f"  $ touch /nix/store/mine\n      {written.stderr.decode().strip()}")
    console.print(f"  $ {show}    [dim]# process 1 is the program itself[/]\n      {process}")


def _timings(*startups: Startup) -> Table:
    """Return the startups side by side, with a row for each step."""
    table = Table("", *(startup.title for startup in startups), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify, column.width = "right", 9
    for name in startups[0].steps:
        table.add_row(f"  {name}", *(_duration(startup.steps[name]) for startup in startups))
    totals = [_duration(sum(startup.steps.values())) for startup in startups]
    table.add_row("  together", *totals, style="bold")
    return table


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _keep(console: Console, runtime: containerd.Containerd, proxy: Proxy, cold: Running) -> None:
    """Keep everything running until an interrupt."""
    script = Path(sys.executable).with_name("cri-proxy")
    cri_proxy = script if script.exists() else f"{sys.executable} -m cri_proxy"
    fetch = "curl" if shutil.which("curl") else "busybox wget -qO -"
    ctr = f"ctr --address {runtime.socket} --namespace k8s.io"
    console.print("[bold]Everything keeps running. Try these in another terminal:[/]\n")
    for line in (
        f"{fetch} {cold.url}",
        f"{cri_proxy} environments --config {proxy.config}",
        f"{cri_proxy} check --config {proxy.config}",
        f"find {proxy.root} -maxdepth 2",
        f"tail {proxy.log}",
        f"{ctr} containers list",
        f"{ctr} tasks exec --tty --exec-id me {cold.container.id} sh",
    ):
        console.print(f"  {escape(line)}")
    console.print("\n[bold]Press Ctrl-C to stop and remove everything.[/]")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    console.print()


@dataclass(frozen=True, slots=True)
class _Explanation:
    """Prints the end of the proxy's log when the demo has failed."""

    console: Console
    proxy: Proxy

    def __call__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            self.console.print(f"\n{escape(self.proxy.log_text()[-_LOG_BYTES:])}", style="dim")


def _expect(holds: bool, otherwise: str) -> None:
    """Fail the demo unless `holds` is true."""
    if not holds:
        raise DemoFailure(otherwise)


if __name__ == "__main__":
    sys.exit(main())
