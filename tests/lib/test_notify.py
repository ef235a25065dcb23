"""systemd's readiness protocol."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from cri_proxy.lib import notify


def test_a_message_reaches_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(place))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))

        was_sent = notify.systemd("READY=1")

        assert was_sent
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", ["", "relative", "/nowhere/at/all"])
def test_a_missing_listener_is_no_error(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", place)

    assert not notify.systemd("READY=1")


async def test_the_watchdog_hears_more_often_than_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(place))
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.setblocking(False)
        beating = asyncio.create_task(notify.keep_alive())
        loop = asyncio.get_running_loop()

        heard = [await loop.sock_recv(listener, 100) for _ in range(3)]

        beating.cancel()
        await asyncio.wait({beating})
    assert heard == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(("period", "pid"), [("", None), ("30000", "1"), ("often", None)])
async def test_nothing_is_sent_without_a_watchdog(
    monkeypatch: pytest.MonkeyPatch, period: str, pid: str | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", period)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)

    await notify.keep_alive()
