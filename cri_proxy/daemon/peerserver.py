"""The sharing program: what one node serves to the others, as a process of its own.

The daemon starts it as `cri-proxy share` (`sharing`), with a line of JSON on standard input:

    {"store": {...}, "log": {...}, "socket": descriptor, "nice": 10}

`store` is the workers' (`store.fetching.jobs`), and the descriptor is that of a socket which
listens already. Packing archives takes processor time, which is why it is not done in the daemon.
Every few minutes, and when peers come or go, it tells them which of their paths are here.

The end of standard input means that the daemon is gone: it leaves at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from cri_proxy.lib import scheduling
from cri_proxy.settings import schema
from cri_proxy.store import signatures
from cri_proxy.store.disk import local
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.store.peers.asking import Peers
from cri_proxy.store.peers.serving import Serving
from cri_proxy.telemetry import logs

ANNOUNCED_SECONDS: Final = 600.0
CHANGED_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
_log = logs.of(__name__)


def main() -> int:
    """Serve until standard input ends; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the daemon, which then ends this
        signal.signal(number, signal.SIG_IGN)
    greeting = json.loads(sys.stdin.buffer.readline() or b"null")
    if greeting is None:
        return 0
    logs.setup(schema.LogSettings(**greeting["log"]))
    scheduling.compute(greeting["nice"])
    threading.Thread(target=_leave_with_the_daemon, daemon=True).start()
    uvloop.run(_serve(greeting["store"], socket.socket(fileno=greeting["socket"])))
    return 0


async def _serve(settings: dict[str, Any], listening: socket.socket) -> None:
    store = local.Store(Path(settings["directory"]))
    known = Addresses(**settings["peers"])
    keyring = signatures.Keyring(signatures.parse_public(each) for each in settings["keys"])
    async with asyncio.TaskGroup() as group:
        group.create_task(Serving(store, known, keyring).serve(listening))
        if settings["peers"]["names"]:
            group.create_task(_announce(Peers(known, store), known, store))


async def _announce(peers: Peers, known: Addresses, store: local.Store) -> None:
    """Tell the peers what is here, again and again: they keep it in memory, and they change."""
    told: tuple[str, ...] = ()
    told_at = -ANNOUNCED_SECONDS
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        since = time.monotonic() - told_at
        if since >= ANNOUNCED_SECONDS or (known.all != told and since >= CHANGED_SECONDS):
            told, told_at = known.all, time.monotonic()
            paths = await asyncio.to_thread(store.public_paths)
            await asyncio.to_thread(peers.announce, paths)
            _log.debug("peers were told", peers=len(told), paths=len(paths))


def _leave_with_the_daemon() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)
