"""Other implementations' clients on a real runtime, directly and through the router, compared.

    python -m hack.bench.relay.conformance [RUNTIME_SOCKET]

- h2spec, which tests every rule of HTTP/2. Cases that the runtime fails without the router are
  ignored. It supports only TCP, so a bridge connects each of its ports to a unix socket.
- an old version of grpc-go, with many calls and cancelled streams (`old/`).
- crictl, as an operator would use it: the one on PATH, or one that is built, which takes minutes.
- ctr, containerd's own client, whose services are unknown to the proxy (`ctr`).

Without a socket, a private containerd is started of each installed version (the system's and those
unpacked by hack/runtimes.sh), or of the one in TESTBED_BINARIES, and its own ctr is used. Needs
`go`, which fetches and builds the first three.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cri_proxy.lib import sockets
from cri_proxy.router.server import Router
from hack.bench.relay import ctr
from hack.testbed.binaries import SERIES, Binaries, unpacked
from hack.testbed.containerd import Containerd

H2SPEC: Final = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
PATH: Final = "/runtime.v1.RuntimeService/Version"
AGAIN: Final = 2
"""How often a failed case is retried, with a longer timeout: to a client, a machine that is busy
for a second looks like a silent peer."""
_OLD: Final = Path(__file__).parent / "old"
_REPOSITORY: Final = Path(__file__).parents[3]
_ASKED: Final = (
    ("version",),
    ("info",),
    ("pods",),
    ("ps", "-a"),
    ("images", "-v"),
    ("inspect", "none"),
    ("stopp", "none"),
    ("pull", "127.0.0.1:1/none:1"),
)
_CHANGING: Final = re.compile(
    r'\d{4}-\d\d-\d\d\S*|time="[^"]*"|E\d{4} \S+ +\d+|unix://\S+|\d+\.\d+s'
)


async def _main(binaries: Binaries, runtime: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="cri-proxy-conformance-") as name:
        place = Path(name) / "router.sock"
        with sockets.listening(place, sockets.access_of(runtime)) as (listener, taken):
            router = Router(
                [listener],
                upstream=runtime,
                interposer=Path(name) / "unused.sock",
                interposed=frozenset(),
            )
            await router.start()
        faults = [
            *await _h2spec(runtime, place, Path(name)),
            *await _old_client(runtime, place),
            *await _crictl(runtime, place),
            *await ctr.faults(binaries, runtime, place, Path(name)),
        ]
        await router.close()
        taken.withdraw()
    for fault in faults:
        print(f"FAILS only through the router: {fault}")
    return int(bool(faults))


async def _h2spec(runtime: Path, place: Path, directory: Path) -> list[str]:
    directly = await _failures(runtime, directory / "directly.xml")
    through = await _failures(place, directory / "through.xml")
    print(f"h2spec: {len(directly)} cases fail directly, {len(through)} through the router")
    for section, title in sorted(directly - through):
        print(f"passes only through the router: {section}: {title}")
    found = through - directly
    for turn in range(AGAIN):
        if not found:
            break
        sections = sorted({section for section, _ in found})
        again = directory / f"again-{turn}.xml"
        lasting = found & await _failures(place, again, *sections, seconds=5)
        for section, title in sorted(found - lasting):
            print(f"failed once through the router: {section}: {title}")
        found = lasting
    return [f"{section}: {title}" for section, title in sorted(found)]


async def _old_client(runtime: Path, place: Path) -> list[str]:
    code, output = await _output("go", "run", ".", runtime, place, cwd=_OLD)
    print(output.strip())
    return ["the old client of gRPC"] if code else []


async def _crictl(runtime: Path, place: Path) -> list[str]:
    program = shutil.which("crictl") or await _built()
    faults = []
    for command in _ASKED:
        answers = []
        for socket in runtime, place:
            options = ("-r", f"unix://{socket}", "-i", f"unix://{socket}", "-t", "20s")
            code, output = await _output(program, *options, *command)
            answers.append((code, sorted(_CHANGING.sub("*", output).splitlines())))
        if answers[0] != answers[1]:
            faults.append(f"crictl {' '.join(command)}: {answers[1]}, directly {answers[0]}")
    print(f"crictl: {len(_ASKED)} commands, {len(faults)} with another answer")
    return faults


async def _built() -> Path:
    """Return crictl; build it if necessary. The script prints the path last."""
    code, output = await _output(_REPOSITORY / "hack" / "critools.sh", "v1.36.0")
    if code:
        raise RuntimeError(f"crictl cannot be built: {output}")
    return Path(output.splitlines()[-1]) / "crictl"


async def _output(*argv: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def _failures(
    socket: Path, report: Path, *sections: str, seconds: int = 1
) -> set[tuple[str, str]]:
    async with _bridge(socket) as port:
        process = await asyncio.create_subprocess_exec(
            "go", "run", H2SPEC, "-p", str(port), "-P", PATH, "-o", str(seconds), "-j", str(report),
            *sections,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()
    return {
        (case.get("package", ""), case.get("classname", ""))
        for case in ElementTree.parse(report).getroot().iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    }


@contextlib.asynccontextmanager
async def _bridge(socket: Path) -> AsyncIterator[int]:
    """Yield a TCP port that forwards to the socket."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(socket)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, upstream_writer))
            group.create_task(_pump(upstream_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def main() -> int:
    """Test all clients on the given runtime, or on private ones."""
    if len(sys.argv) > 1:
        return asyncio.run(_main(Binaries(), Path(sys.argv[1])))
    found = 0
    for each in _here():
        print(f"containerd {each.version()}", flush=True)
        with Containerd(binaries=each) as containerd:
            found |= asyncio.run(_main(each, containerd.socket))
    return found


def _here() -> list[Binaries]:
    """Return the containerds to test with: the one in TESTBED_BINARIES, or all installed ones."""
    named = Binaries()
    if named.directory is not None:
        return [named]
    others = {series: unpacked(series) for series in SERIES}
    for series in [series for series, found in others.items() if found is None]:
        print(f"skipping containerd {series}: not unpacked (run hack/runtimes.sh {series})")
    return [named, *(found for found in others.values() if found is not None)]


if __name__ == "__main__":
    sys.exit(main())
