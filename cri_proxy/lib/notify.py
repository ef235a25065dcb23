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
    interval = _watchdog_seconds()
    while interval is not None:
        systemd("WATCHDOG=1")
        await asyncio.sleep(interval)


def _watchdog_seconds() -> float | None:
    """Return a third of the watchdog's timeout, None without one: sd_watchdog_enabled(3)."""
    period, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not period.isdecimal() or pid not in (None, str(os.getpid())):
        return None
    return int(period) / 3_000_000
