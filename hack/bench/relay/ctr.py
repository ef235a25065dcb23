"""Sessions of containerd's own client, `ctr`, directly on the runtime and through the router.

ctr uses containerd's API, which is unknown to the proxy: namespaces, images, content, leases,
snapshots, containers, tasks, events, and the transfer and streaming services of later versions. A
session starts from an empty namespace and leaves nothing, so that it can be repeated on the same
runtime with the same output: it imports and exports 48 MiB as a tar, pulls from a registry, uses
the standard streams, runs containers and asks for missing objects. `ctr events` runs meanwhile; its
output is the last answer.

What differs from run to run is masked: times, process ids, random names, the order of labels. Of
commands that draw a progress bar, only the exit code is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from hack.testbed import images, waiting
from hack.testbed.binaries import Binaries
from hack.testbed.images import BUSYBOX, File, Image
from hack.testbed.registry import Registry

NAMESPACE: Final = "cri-proxy-conformance"
LARGE: Final = "docker.io/cri-proxy/large:1"
LARGE_BYTES: Final = 48 << 20

_MARK: Final = f"{NAMESPACE}-mark"
_LISTENED_SECONDS: Final = 0.5
_NATIVE: Final = ("--snapshotter", "native")
_CHANGING: Final = re.compile(
    r'time="[^"]*"'
    r"|\d{4}-\d\d-\d\d[T ][\d:.]+(Z| \+0000 UTC)?"
    r"|Less than a second|(About an?|\d+) (second|minute)s?"
    r"|\d+(?= +(RUNNING|PAUSED|-$))"
    r'|"(pid|seconds|nanos)":\d+'
    r"|(?<=extract-)[\w-]+"
    r"|(?<=/snapshots/)\d+|(?<=/fifos/)\d+"
)


class Compared(Enum):
    """The part of an answer that is compared besides the exit code."""

    WORDS = 0
    BYTES = 1
    NOTHING = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a session."""

    argv: tuple[str, ...]
    fails: bool = False
    compared: Compared = Compared.WORDS
    standard_input: bytes = b""
    written: Path | None = None
    """A file that the command creates."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command."""

    command: str
    code: int
    output: tuple[str, ...]


async def faults(binaries: Binaries, runtime: Path, place: Path, directory: Path) -> list[str]:
    """Run a session directly and one through the router; return the differences.

    Raises RuntimeError if a command of the direct session fails unexpectedly.
    """
    program = binaries.path_of("ctr")
    if program is None:
        raise RuntimeError("this containerd has no ctr")
    layer = images.layer({"large": File(random.Random(1).randbytes(LARGE_BYTES))})
    large = Image(name=LARGE, layers=(layer,))
    images.write(large, directory / "large.tar")
    images.write(images.of_testbed()[2], directory / "busybox.tar")
    with Registry() as registry:
        registry.offer(large)
        steps = tuple(_steps(directory, registry.address, layer))
        directly, through = [
            await _session(Client(program, socket), steps) for socket in (runtime, place)
        ]
    for step, answer in zip(steps, directly, strict=False):
        if bool(answer.code) != step.fails:
            raise RuntimeError(f"{answer.command} ended with {answer.code}: {answer.output}")
    found = [
        f"{ours.command}: {ours.code} {sorted({*ours.output} - {*theirs.output})}, "
        f"directly {theirs.code} {sorted({*theirs.output} - {*ours.output})}"
        for ours, theirs in zip(through, directly, strict=True)
        if ours != theirs
    ]
    print(f"ctr: {len(directly)} commands, {len(found)} with another answer")
    return found


@dataclass(frozen=True, slots=True)
class Client:
    """A ctr and the socket that it connects to."""

    program: Path
    socket: Path

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            self.program,
            *("--address", str(self.socket), "--namespace", NAMESPACE, *argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ask(self, step: Step) -> Answer:
        """Return the result of a command."""
        process = await self.start(*step.argv)
        async with asyncio.timeout(waiting.DEADLINE_SECONDS):
            data, complaint = await process.communicate(step.standard_input)
        assert process.returncode is not None
        match step.compared:
            case Compared.WORDS:
                output = _words(complaint) + _words(data)
            case Compared.BYTES:
                output = (*_words(complaint), hashlib.sha256(data).hexdigest())
            case Compared.NOTHING:
                output = ()
        if step.written is not None:
            output += (hashlib.sha256(step.written.read_bytes()).hexdigest(),)
        return Answer(f"ctr {' '.join(step.argv)}", process.returncode, output)


async def _session(client: Client, steps: tuple[Step, ...]) -> list[Answer]:
    """Run all commands in turn while recording the events."""
    async with _heard(client) as events:
        answers = [await client.ask(step) for step in steps]
    return [*answers, Answer("ctr events", 0, _words(b"".join(events)))]


@contextlib.asynccontextmanager
async def _heard(client: Client) -> AsyncIterator[list[bytes]]:
    """Yield a list that will have all events of our namespace once the context is left.

    Events of a second namespace mark the start and the end: the first must have arrived before
    anything else is done, and the last ends the list.
    """
    listener = await client.start("events")
    events: list[bytes] = []
    try:
        await client.ask(Step(("namespaces", "create", _MARK)))
        async with asyncio.timeout(waiting.DEADLINE_SECONDS):
            while True:
                await client.ask(Step(("namespaces", "label", _MARK, "is=heard")))
                with contextlib.suppress(TimeoutError):
                    updated = _until(listener, f'/namespaces/update {{"name":"{_MARK}"')
                    await asyncio.wait_for(updated, _LISTENED_SECONDS)
                    break
        yield events
        await client.ask(Step(("namespaces", "remove", _MARK)))
        async with asyncio.timeout(waiting.DEADLINE_SECONDS):
            events += await _until(listener, f'/namespaces/delete {{"name":"{_MARK}"')
    finally:
        listener.kill()
        await listener.communicate()


async def _until(listener: asyncio.subprocess.Process, mark: str) -> list[bytes]:
    """Return the events before the final mark, without the marks themselves.

    The ends of tasks are left out: a shim that is shutting down may not report them.
    """
    assert listener.stdout is not None
    found = []
    while mark.encode() not in (line := await listener.stdout.readline()):
        if not line:
            raise RuntimeError("ctr events has ended")
        is_ours = f" {NAMESPACE} /".encode() in line and f'"{_MARK}"'.encode() not in line
        if is_ours and b" /tasks/delete " not in line:
            found.append(line)
    return found


def _words(text: bytes) -> tuple[str, ...]:
    """Return the lines, and the words in each, in sorted order."""
    lines = text.decode(errors="replace").splitlines()
    blotted = (_CHANGING.sub("*", line.rstrip()) for line in lines)
    return tuple(sorted(" ".join(sorted(re.split(r"[\s,]+", line))) for line in blotted))


def _steps(directory: Path, registry: str, layer: bytes) -> Iterator[Step]:
    """Yield the commands of a session, which deletes everything that it creates.

    Deleting an image synchronously with the garbage collector (`--sync`) also makes lists of
    content predictable, and ensures that no collection of unreferenced content is pending.
    """
    fetched = f"{registry}/{LARGE.partition('/')[2]}"
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    exported = directory / "exported.tar"
    fifos = ("--fifo-dir", str(directory / "fifos"))
    run = ("run", *_NATIVE, *fifos, "--cgroup", f"/{NAMESPACE}")
    painted = Compared.NOTHING

    yield Step(("version",))
    yield Step(("plugins", "list"))
    yield Step(("namespaces", "create", NAMESPACE, "made-by=test"))
    yield Step(("namespaces", "label", NAMESPACE, "more=yes"))
    yield Step(("namespaces", "list"))

    yield from _imported(directory / "large.tar")
    yield Step(("images", "export", str(exported), LARGE), compared=painted, written=exported)
    yield Step(("images", "remove", "--sync", LARGE))
    yield from _imported(exported)
    yield Step(("content", "get", digest), compared=Compared.BYTES)
    yield Step(("images", "remove", "--sync", LARGE))
    yield Step(("content", "fetch", "--plain-http", fetched), compared=painted)
    yield Step(("images", "check", *_NATIVE))
    yield Step(("images", "label", fetched, "color=blue"))
    yield Step(("images", "list"))
    yield Step(("images", "remove", "--sync", fetched))
    size = ("--expected-size", str(len(layer)))
    yield Step(("content", "ingest", *size, "a-layer"), standard_input=layer)
    yield Step(("content", "label", digest, "containerd.io/gc.root=kept"))
    yield Step(("content", "list"))
    yield Step(("content", "get", digest), compared=Compared.BYTES)
    yield Step(("content", "active"))
    yield Step(("content", "delete", digest))
    yield Step(("leases", "create", "--id", "a-lease"))
    yield Step(("leases", "list"))
    yield Step(("leases", "delete", "a-lease"))

    yield from _imported(directory / "busybox.tar")
    yield Step((*run, "--rm", BUSYBOX, "brief", "echo", "hello"))
    yield Step((*run, "--detach", BUSYBOX, "lasting", "sleep", "2147483647"))
    yield Step(("containers", "list"))
    yield Step(("containers", "info", "lasting"))
    yield Step(("snapshots", *_NATIVE, "list"))
    yield Step(("snapshots", *_NATIVE, "usage", "lasting"))
    yield Step(("tasks", "exec", *fifos, "--exec-id", "1", "lasting", "cat", "/etc/passwd"))
    failing = ("lasting", "sh", "-c", "exit 3")
    yield Step(("tasks", "exec", *fifos, "--exec-id", "2", *failing), fails=True)
    yield Step(("tasks", "metrics", "lasting"), compared=Compared.NOTHING)
    yield Step(("tasks", "ps", "lasting"))
    yield Step(("tasks", "pause", "lasting"))
    yield Step(("tasks", "list"))
    yield Step(("tasks", "resume", "lasting"))
    yield Step(("tasks", "delete", "--force", "lasting"))
    yield Step(("containers", "delete", "lasting"))

    yield Step(("containers", "info", "none"), fails=True)
    yield Step(("tasks", "kill", "none"), fails=True)
    yield Step(("content", "get", f"sha256:{'0' * 64}"), fails=True)
    yield Step(("content", "fetch", "--plain-http", f"{registry}/none:1"), fails=True)
    yield Step((*run, "none:1", "none"), fails=True)

    yield Step(("images", "remove", "--sync", BUSYBOX))
    yield Step(("content", "list"))
    yield Step(("snapshots", *_NATIVE, "list"))
    yield Step(("leases", "list"))
    yield Step(("namespaces", "remove", NAMESPACE))
    yield Step(("namespaces", "list"))


def _imported(tar: Path) -> Iterator[Step]:
    yield Step(("images", "import", "--no-unpack", str(tar)), compared=Compared.NOTHING)
