"""systemd's notification protocol: messages to the socket in NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket


def systemd(message: str) -> bool:
    """Send `message`, such as `READY=1`; return whether systemd received it."""
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


async def keep_alive() -> None:
    """Ping systemd's watchdog while the event loop turns, if the unit has one."""
    # sd_watchdog_enabled(3)
    timeout, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not timeout.isdecimal() or pid not in (None, str(os.getpid())):
        return
    while True:
        systemd("WATCHDOG=1")
        await asyncio.sleep(int(timeout) / 3_000_000)  # a third of the timeout
