"""systemd's readiness protocol: short messages to the socket in NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def systemd(message: str) -> bool:
    """Send `message`, such as `READY=1`; return whether anybody was there to be told."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return False
    address = "\0" + place[1:] if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.sendall(message.encode())
        except OSError:
            return False
    return True
