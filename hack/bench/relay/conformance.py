"""h2spec against a runtime, directly and through the router: no case may fail only through it.

    python -m hack.bench.relay.conformance RUNTIME_SOCKET

The cases that the runtime itself fails are its own business. Needs `go`, which fetches and builds
h2spec; h2spec speaks TCP only, so a bridge leads each of its ports to a unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cri_proxy.lib import sockets
from cri_proxy.router.server import Router

H2SPEC: Final = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
PATH: Final = "/runtime.v1.RuntimeService/Version"


async def _main(runtime: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="cri-proxy-h2spec-") as name:
        place = Path(name) / "router.sock"
        with sockets.listening(place, sockets.access_of(runtime)) as (listener, taken):
            router = Router(
                [listener],
                upstream=runtime,
                interposer=Path(name) / "nobody.sock",
                interposed=frozenset(),
            )
        await router.start()
        directly = await _failures(runtime, Path(name) / "directly.xml")
        through = await _failures(place, Path(name) / "through.xml")
        await router.close()
        taken.withdraw()
    print(f"fail directly: {len(directly)}, through the router: {len(through)}")
    for section, title in sorted(directly - through):
        print(f"passes only through the router: {section}: {title}")
    for section, title in sorted(through - directly):
        print(f"FAILS only through the router: {section}: {title}")
    return int(bool(through - directly))


async def _failures(socket: Path, report: Path) -> set[tuple[str, str]]:
    async with _bridge(socket) as port:
        process = await asyncio.create_subprocess_exec(
            "go", "run", H2SPEC, "-p", str(port), "-P", PATH, "-o", "1", "-j", str(report),
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
    """Yield a TCP port that leads to the socket."""

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


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(Path(sys.argv[1]))))
