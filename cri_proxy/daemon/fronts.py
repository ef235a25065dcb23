"""Fronts: what serves kubelet's socket, the router before the interposer or the interposer alone.

The interposer is a complete proxy: it relays what it does not change. With the router in front, it
receives only the calls that it intercepts, at a socket of its own beside kubelet's; all other
streams go from kubelet to the runtime frame by frame. Pods see no difference.

    /run/cri-proxy/cri-proxy.sock       kubelet's socket, bound here or passed in by systemd
    /run/cri-proxy/interposer.sock      the interposer's, when the router is in front

A daemon that replaces another takes both over together. Until the old one has ended, calls that
reach its router may be answered by the new one's interposer, which makes no difference.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from cri_proxy import errors
from cri_proxy.cri import methods
from cri_proxy.interposer.relay import Relay
from cri_proxy.interposer.server import Server
from cri_proxy.lib import sockets
from cri_proxy.lib.meters import Registry
from cri_proxy.router import counting
from cri_proxy.router.server import Router
from cri_proxy.settings.schema import Settings

INTERPOSER_SOCKET = "interposer.sock"
_LAST_SECONDS = 1.0


class Front:
    """The interposer at kubelet's socket."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def start(self) -> None:
        """Listen; raise RequestInvalid if the socket is not available.

        gRPC cannot take a socket that listens already.
        """
        if passed := sockets.inherited(os.environ):
            for each in passed:
                each.close()
            raise errors.RequestInvalid(
                "systemd has passed a socket, which the interposer alone cannot serve: set "
                "serve.front to router, or stop the socket unit"
            )
        await self._server.start()

    def is_replaced(self) -> bool:
        """Return whether another process has taken kubelet's socket over."""
        return self._server.taken is not None and self._server.taken.is_lost()

    async def drain(self, grace: float) -> None:
        """Refuse new calls, and wait for those in flight, for at most `grace` seconds."""
        await self._server.drain(grace)

    async def stop(self) -> None:
        """Stop at once."""
        await self._server.stop()


class _Routed(Front):
    """The router at kubelet's socket, and the interposer behind it."""

    def __init__(
        self,
        server: Server,
        router_of: Callable[[Sequence[socket.socket]], Router],
        listening: Callable[[], AbstractContextManager[tuple[socket.socket, sockets.Taken]]],
    ) -> None:
        super().__init__(server)
        self.router: Router | None = None
        self._router_of = router_of
        self._listening = listening
        self._taken: sockets.Taken | None = None

    async def start(self) -> None:
        """Listen at kubelet's socket, or at the sockets that systemd passed."""
        if passed := sockets.inherited(os.environ):
            await self._serve(passed)
            return
        with self._listening() as (listener, taken):
            await self._serve([listener])
            self._taken = taken

    async def _serve(self, listening: Sequence[socket.socket]) -> None:
        await self._server.start()
        self.router = self._router_of(listening)
        await self.router.start()

    def is_replaced(self) -> bool:
        return self._taken is not None and self._taken.is_lost()

    async def drain(self, grace: float) -> None:
        """Drain the router first: the calls that it has lent to the interposer end with it."""
        begun = time.monotonic()
        if self.router is not None:
            await self.router.drain(grace)
        self._withdraw()
        await super().drain(max(_LAST_SECONDS, grace - (time.monotonic() - begun)))

    async def stop(self) -> None:
        if self.router is not None:
            await self.router.close()
        self._withdraw()
        await super().stop()

    def _withdraw(self) -> None:
        """Remove our socket files, unless another daemon has replaced them."""
        for taken in self._taken, self._server.taken:
            if taken is not None:
                taken.withdraw()
        self._taken = self._server.taken = None


def front_of(
    settings: Settings,
    relay: Relay,
    interposed: Collection[str],
    registry: Registry,
    *,
    count: counting.Count | None = None,
    is_replacing: bool = False,
) -> Front:
    """Return the front that the settings choose; `interposed` are method paths.

    `count` is called for each call that does not pass through the relay.
    """
    place, runtime = settings.serve.listen, settings.runtime.endpoint
    access = sockets.access_of(runtime)
    if settings.serve.front == "interposer":
        return Front(Server(relay, place, access, is_replacing=is_replacing))
    behind = place.with_name(INTERPOSER_SOCKET)
    server = Server(relay, behind, access, is_replacing=is_replacing)
    table = counting.Table(methods.ALL, count) if count is not None else None
    router_of = functools.partial(
        Router, upstream=runtime, interposer=behind, interposed=frozenset(interposed), table=table
    )
    listening = functools.partial(sockets.listening, place, access, is_replacing=is_replacing)
    routed = _Routed(server, router_of, listening)
    registry.gauge(
        "cri_proxy_router_connections",
        "Connections of kubelet and other clients to the router.",
        lambda: 0 if routed.router is None else routed.router.connections,
    )
    registry.gauge(
        "cri_proxy_router_held_bytes",
        "Responses that wait in the router until their client reads more.",
        lambda: 0 if routed.router is None else routed.router.held_bytes,
    )
    return routed
