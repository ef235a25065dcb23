"""Fronts: the router or the interposer at kubelet's socket, and sockets that systemd passes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.cri import channels, methods
from cri_proxy.daemon import fronts
from hack.testbed import processes, waiting
from tests.daemon.conftest import Station


async def test_a_socket_of_systemds_outlives_the_proxy_that_it_was_passed_to(
    station: Station, tmp_path: Path
) -> None:
    """A restart refuses no connection: what comes in between is answered afterwards."""
    place = tmp_path / "kept.sock"
    station.proxy.configure({"serve": {"front": "router", "listen": str(tmp_path / "own.sock")}})
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(str(place))
        kept.listen()
        async with channels.dial(place) as caller:
            version = caller.unary_unary(methods.path_of("Version"))
            for payload in (b"1", b"2"):
                answering = version(payload, timeout=60, wait_for_ready=True)
                with _activated(station, kept):
                    assert await answering == payload
                assert place.exists()


def test_the_interposer_alone_refuses_a_socket_of_systemds(
    station: Station, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(str(tmp_path / "kept.sock"))
        kept.listen()
        with _activated(station, kept, "--set", "serve.front=interposer") as program:
            waiting.until(lambda: not program.is_running, what="the proxy to refuse")

    assert "set serve.front to router" in (tmp_path / "log-activated").read_text()


@contextlib.contextmanager
def _activated(station: Station, kept: socket.socket, *flags: str) -> Iterator[processes.Program]:
    """Start a proxy as systemd does, the socket being its descriptor 3."""
    command = [*station.proxy.argv("serve"), *flags]
    program = processes.Program(
        [
            *("bash", "-c", f'exec 3<&{kept.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "-"),
            *command,
        ],
        log=station.proxy.directory.parent / "log-activated",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=station.proxy.directory,
        pass_fds=(kept.fileno(),),
    )
    try:
        yield program
    finally:
        program.stop()


@pytest.mark.parametrize("front", ["router", "interposer"])
async def test_unknown_methods_pass_through_either_front(station: Station, front: str) -> None:
    station.proxy.configure({"serve": {"front": front}})
    await asyncio.to_thread(station.proxy.start)

    answer = await station.caller.unary_unary("/runtime.v9.Future/Method")(b"\xff", timeout=60)

    assert answer == b"\xff"
    behind = station.proxy.socket.with_name(fronts.INTERPOSER_SOCKET)
    assert behind.exists() == (front == "router")


async def test_the_routers_sockets_are_removed_at_the_end(station: Station) -> None:
    station.proxy.configure({"serve": {"front": "router"}})
    await asyncio.to_thread(station.proxy.start)

    await asyncio.to_thread(station.proxy.stop)

    assert not station.proxy.socket.exists()
    assert not station.proxy.socket.with_name(fronts.INTERPOSER_SOCKET).exists()
