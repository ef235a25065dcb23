"""Peering: the address at which this node serves store paths to others, and the program behind it.

The daemon listens itself, so that it refuses to start at an address that is not available, and so
that connections wait in the kernel, and are not refused, while the peer server (`peerserver`) is
started again after a crash. With `peer.listen` empty there is neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
from collections.abc import AsyncIterator
from typing import Final

from cri_proxy import errors
from cri_proxy.daemon.initialization import PeerServerInit
from cri_proxy.lib import child
from cri_proxy.settings.schema import Settings
from cri_proxy.store.protocol import StoreOptions
from cri_proxy.telemetry import logs

ARGV: Final = (sys.executable, "-m", "cri_proxy", "peer-server")
_BACKLOG: Final = 1024
_log = logs.of(__name__)


@contextlib.asynccontextmanager
async def serving(settings: Settings, store: StoreOptions) -> AsyncIterator[None]:
    """Serve other nodes while the context lasts, if the settings say so.

    `store` is the workers'. Raises RequestInvalid when the address is not available.
    """
    if not settings.peer.listen:
        yield
        return
    with _listening(settings.peer.listen) as listening:
        program = child.Program(
            ARGV,
            PeerServerInit(store, settings.log, listening.fileno()),
            descriptors=(listening.fileno(),),
        )
        _log.info("peers", listen=settings.peer.listen, names=" ".join(settings.peer.names))
        log_end = functools.partial(_log.warning, "peer server ended")
        supervisor = child.Supervisor(program, log_end)
        try:
            yield
        finally:
            await asyncio.to_thread(supervisor.stop)


def _listening(address: str) -> socket.socket:
    """Return a socket that listens at an address of the settings."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A daemon that replaces another listens beside it; the kernel shares out new connections.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host.strip("[]"), int(port)))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise errors.RequestInvalid(
            f"cannot listen at {address} ({error.strerror or error}): set peer.listen to an "
            "address of this node with a free port"
        ) from error
    return made
