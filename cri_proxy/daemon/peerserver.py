"""The sharing program: what one node serves to the others, as a process of its own.

The daemon starts it as `cri-proxy share` (`sharing`), with a line of JSON on standard input:

    {"store": {...}, "log": {...}, "socket": descriptor, "nice": 10}

That is `initialization.PeerServerInit`, with the descriptor of a socket which listens already.
Packing archives takes processor time, which is why it is not done in the daemon.
Every few minutes, and when peers come or go, it tells them which of their paths are here.

The end of standard input means that the daemon is gone: it leaves at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from typing import Final

import uvloop

from cri_proxy.daemon.initialization import PeerServerInit
from cri_proxy.lib import codec, scheduling
from cri_proxy.store import signatures
from cri_proxy.store.disk import local
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.store.peers.asking import Peers
from cri_proxy.store.peers.serving import Serving
from cri_proxy.store.protocol import StoreOptions
from cri_proxy.telemetry import logs

ANNOUNCED_SECONDS: Final = 600.0
CHANGED_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
_log = logs.of(__name__)


def main() -> int:
    """Serve until standard input ends; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the daemon, which then ends this
        signal.signal(number, signal.SIG_IGN)
    first = sys.stdin.buffer.readline()
    if not first:
        return 0
    init = codec.decode(first, PeerServerInit)
    logs.setup(init.log)
    scheduling.compute(init.nice)
    threading.Thread(target=_leave_with_the_daemon, daemon=True).start()
    uvloop.run(_serve(init.store, socket.socket(fileno=init.socket)))
    return 0


async def _serve(options: StoreOptions, listening: socket.socket) -> None:
    store = local.Store(options.directory)
    known = Addresses(options.peers.names, options.peers.listen)
    keyring = signatures.Keyring(signatures.parse_public(each) for each in options.keys)
    async with asyncio.TaskGroup() as group:
        group.create_task(Serving(store, known, keyring).serve(listening))
        if options.peers.names:
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
