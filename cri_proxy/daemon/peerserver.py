"""The peer server: the program that serves this node's store paths to other nodes.

The daemon starts it as `cri-proxy peer-server` (see `peering` and `lib.child`).

Packing archives takes processor time, which is why the daemon does not do it. Every few
minutes, and when peers come or go, the program announces to the peers which of their paths this
node has. It exits at once when its standard input ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from typing import Final

import uvloop

from cri_proxy.daemon.initialization import PeerServerInit
from cri_proxy.lib import child
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
    init = child.begin(PeerServerInit)
    if init is None:
        return 0
    logs.setup(init.log)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
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
    """Announce our paths to the peers, again and again: they keep them in memory, and restart."""
    informed: tuple[str, ...] = ()
    informed_at = -ANNOUNCED_SECONDS
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        since = time.monotonic() - informed_at
        if since >= ANNOUNCED_SECONDS or (known.all != informed and since >= CHANGED_SECONDS):
            informed, informed_at = known.all, time.monotonic()
            paths = await asyncio.to_thread(store.public_paths)
            await asyncio.to_thread(peers.announce, paths)
            _log.debug("paths announced", peers=len(informed), paths=len(paths))


def _exit_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)
