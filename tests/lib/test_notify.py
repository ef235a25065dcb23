"""systemd's readiness protocol."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cri_proxy.lib import notify


def test_a_message_reaches_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(place))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))

        told = notify.systemd("READY=1")

        assert told
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", ["", "relative", "/nowhere/at/all"])
def test_nobody_there_is_no_error(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", place)

    assert not notify.systemd("READY=1")
