"""The demo: a pod without an image, from nothing to an answer over HTTP, on this machine.

    make demo                 what there is to see, in a minute; leaves nothing behind
    DEMO_KEEP=1 make demo     the same, then everything stays until Ctrl-C

Everything is real and local: a private containerd with runc and a bridge network, a FloxHub (git
over smart HTTP), a signed binary cache over HTTP, and cri-proxy between all of them. The demo plays
kubelet: it makes the calls that kubelet makes, through cri-proxy's socket. What it prints has been
checked: it exits with 0 only if all of it held.

All of its files are in the directory of the private containerd, which nothing outlives: Ctrl-C,
SIGTERM and a closed terminal take everything down at once, and after SIGKILL the testbed's guard
does. What is printed fits 80 columns; only lines that are there to be copied may be longer.
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


class NotAsPromised(Exception):
    """Something that the demo shows does not hold."""


@dataclass(slots=True)
class Startup:
    """How long the steps of one pod's start took, in seconds."""

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
    """Makes the first signal to stop a KeyboardInterrupt, and has the others wait for the end.

    While it is `held` the signal is put off: what is just being started would not be known yet to
    those who take it down.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._has_come = False
        for number in _SIGNALS:
            signal.signal(number, self._come)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put the signal off until the end of the block."""
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
        console.print("Run 'make demo' as root: it installs what a Debian machine lacks.")
        return 1
    interruption = Interruption()
    try:
        _demonstrate(console, interruption)
    except KeyboardInterrupt:
        console.print("\nInterrupted. Nothing of the demo is left on this machine.")
        return 130
    except (NotAsPromised, AssertionError) as error:
        console.print(f"\n[red]Not as promised:[/] {escape(str(error))}")
        return 1
    except grpc.RpcError as error:
        console.print(f"\n[red]Not as promised:[/] {escape(f'{error.code()}: {error.details()}')}")
        return 1
    console.print("[green]All of this was verified,[/] and nothing of it is left on this machine.")
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
        console.print("  cri-proxy     in front of it, on a CRI socket of its own")
        console.print(f"  FloxHub       {hub.url}, has the environment {REFERENCE}")
        console.print(f"  binary cache  {cache.url}, signs as {publisher.key.public.name}\n")

        console.print(f"[bold]1. A pod annotated flox.dev/environment: {REFERENCE}[/], image empty")
        cold = _start(pods, "web", "cold")
        _show_answer(console, cold, PAGE.format(REFERENCE))
        _show_inside(console, cold.container, paths)

        console.print("\n[bold]2. An ordinary pod beside it[/], with an image and no annotation")
        plain = _start_ordinary(pods)
        _show_answer(console, plain, ORDINARY)

        console.print("\n[bold]3. The annotated pod once more[/]: its environment is on the node")
        requests = cache.count()
        warm = _start(pods, "web-again", "warm")
        _expect(cache.count() == requests, "the second start asked the binary cache again")
        _show_answer(console, warm, PAGE.format(REFERENCE))
        console.print("  The binary cache was not asked for anything.")

        console.print("\n[bold]From nothing to the first answer[/]")
        console.print(_timings(cold.startup, warm.startup, plain.startup))
        console.print("  cold, warm  the annotated pod, when none or all of it was on the node")
        console.print("  ordinary    the pod with an image, which was on the node\n")
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
    serve = f'cd "$FLOX_ENV/share/site" && exec httpd -f -p {PORT}'
    with startup.step("RunPodSandbox"):
        pod = pods.run_pod(name, {"flox.dev/environment": REFERENCE})
    return _serve(startup, pod, Spec(image=images.PLACEHOLDER, command=("sh", "-c", serve)))


def _start_ordinary(pods: Pods) -> Running:
    """Start a pod that does not know cri-proxy."""
    startup = Startup("ordinary")
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
    except OSError:
        return None


def _show_answer(console: Console, running: Running, expected: str) -> None:
    """Show what a pod answers over HTTP, if that is what it should."""
    _expect(running.answer == expected, f"{running.url} answered {running.answer!r}")
    console.print(f"  GET {running.url}")
    console.print(f"      [green]{escape(running.answer.strip())}[/]")


def _show_inside(console: Console, container: Container, paths: set[str]) -> None:
    """Show what the program sees: the closure, all of it and nothing else, and read-only."""
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
    """Return the startups side by side, a row for each step."""
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
    """Leave everything running until somebody interrupts."""
    script = Path(sys.executable).with_name("cri-proxy")
    cri_proxy = script if script.exists() else f"{sys.executable} -m cri_proxy"
    fetch = "curl" if shutil.which("curl") else "busybox wget -qO -"
    ctr = f"ctr --address {runtime.socket} --namespace k8s.io"
    console.print("[bold]Everything keeps running. Look around from another terminal:[/]\n")
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
    console.print("\n[bold]Ctrl-C takes everything down.[/]")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    console.print()


@dataclass(frozen=True, slots=True)
class _Explanation:
    """On the way out of a demo that failed, the end of the proxy's log."""

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
    """Go on only if what is shown holds."""
    if not holds:
        raise NotAsPromised(otherwise)


if __name__ == "__main__":
    sys.exit(main())
