"""The daemon serves other nodes by a program of its own, and keeps it running."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.testbed import ports, waiting
from hack.testbed.processes import ProgramEnded
from tests.daemon.conftest import Station


@pytest.fixture
def address(station: Station) -> Iterator[str]:
    """The address at which the station's daemon serves, on a port of its own."""
    with ports.kept() as port:
        chosen = f"127.0.0.1:{port}"
        station.proxy.configure({"peer": {"listen": chosen, "names": [chosen]}})
        yield chosen


def ask(address: str, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", f"/{target}")
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def sharing(station: Station) -> list[int]:
    """Return the programs that serve for the station's daemon."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                words = (process / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == station.proxy.pid and b"peer-server" in words:
                found.append(int(process.name))
    return found


async def test_a_daemon_serves_what_it_has_realized(station: Station, address: str) -> None:
    await asyncio.to_thread(station.proxy.start)
    tools = station.published.tools
    station.push("web", tools)
    await asyncio.to_thread(station.proxy.run, "realize", "acme/web")

    status, text = await asyncio.to_thread(ask, address, f"{tools.path.digest}.narinfo")

    assert status == 200
    assert f"StorePath: {tools.path}\n".encode() in text
    assert (await asyncio.to_thread(ask, address, "environments"))[0] == 404


async def test_a_program_that_dies_is_replaced_without_a_refused_connection(
    station: Station, address: str
) -> None:
    await asyncio.to_thread(station.proxy.start)
    await asyncio.to_thread(ask, address, "nix-cache-info")
    (first,) = sharing(station)
    os.kill(first, signal.SIGKILL)

    assert (await asyncio.to_thread(ask, address, "nix-cache-info"))[0] == 200
    assert sharing(station) != [first]


async def test_the_program_ends_with_a_daemon_that_is_killed(
    station: Station, address: str
) -> None:
    await asyncio.to_thread(station.proxy.start)
    await asyncio.to_thread(ask, address, "nix-cache-info")
    (program,) = sharing(station)
    await asyncio.to_thread(station.proxy.kill)

    await asyncio.to_thread(
        waiting.until, lambda: not Path(f"/proc/{program}").exists(), what="the program's end"
    )


async def test_an_address_that_is_taken_is_refused_at_once(station: Station, address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises((AssertionError, ProgramEnded)):
        await asyncio.to_thread(station.proxy.start)

    assert "set peer.listen to an address" in station.proxy.log_text()
