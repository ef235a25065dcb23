"""What kubelet talks to: the interposer itself, or the router in front of it.

The interposer alone is a whole proxy: it relays what it does not change. With the router in front,
only the calls that the interposer answers reach it, at a socket of its own beside kubelet's; all
other streams go from kubelet to the runtime frame by frame. What pods see is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from cri_proxy.interposer import sockets as interposer_sockets
from cri_proxy.interposer.relay import Relay
from cri_proxy.interposer.server import Server
from cri_proxy.router import sockets as router_sockets
from cri_proxy.router.server import Router
from cri_proxy.settings.schema import Settings

INTERPOSER_SOCKET = "interposer.sock"
_LAST_SECONDS = 1.0


class Front(Protocol):
    """Something that serves kubelet's socket: `interposer.server.Server`, or `Routed`."""

    async def start(self) -> None:
        """Listen; raise RequestInvalid if the place cannot be had."""

    async def drain(self, grace: float) -> None:
        """Take no new call, and end those in flight within `grace` seconds."""

    async def stop(self) -> None:
        """End at once."""


def front_of(settings: Settings, relay: Relay, interposed: Collection[str]) -> Front:
    """Return what the settings put at kubelet's socket; `interposed` are method paths."""
    place, runtime = settings.serve.listen, settings.runtime.endpoint
    access = interposer_sockets.access_of(runtime)
    if settings.serve.front == "interposer":
        return Server(relay, place, access)
    behind = place.with_name(INTERPOSER_SOCKET)
    return Routed(Server(relay, behind, access), place, behind, runtime, frozenset(interposed))


class Routed:
    """The router at kubelet's socket, and the interposer behind it."""

    def __init__(
        self,
        server: Server,
        place: Path,
        behind: Path,
        runtime: Path,
        interposed: frozenset[str],
    ) -> None:
        self._server = server
        self._place = place
        self._behind = behind
        self._runtime = runtime
        self._interposed = interposed
        self._listener: router_sockets.Listener | None = None
        self._router: Router | None = None

    async def start(self) -> None:
        """Listen at kubelet's socket, or at what systemd passed in its place."""
        listening = router_sockets.inherited(os.environ)
        if not listening:
            self._listener = router_sockets.listen(self._place, like=self._runtime)
            listening = [self._listener.socket]
        try:
            await self._server.start()
        except BaseException:
            self._withdraw()
            raise
        self._router = Router(
            listening,
            upstream=self._runtime,
            interposer=self._behind,
            interposed=self._interposed,
        )
        await self._router.start()

    async def drain(self, grace: float) -> None:
        """Drain the router first: what it has lent to the interposer ends with it."""
        begun = time.monotonic()
        if self._router is not None:
            await self._router.drain(grace)
        self._withdraw()
        await self._server.drain(max(_LAST_SECONDS, grace - (time.monotonic() - begun)))

    async def stop(self) -> None:
        """Close every connection."""
        if self._router is not None:
            await self._router.close()
        self._withdraw()
        await self._server.stop()

    def _withdraw(self) -> None:
        """Take our socket file away, if it is still ours."""
        if self._listener is not None:
            self._listener.withdraw()
            self._listener = None
