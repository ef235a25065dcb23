"""Relays with their servers, as the daemon builds them, but without environments.

    async with Relays(directory, runtime.socket) as relays:
        relay = await relays.start({CREATE_CONTAINER: interceptor})
        await relay.caller.unary_unary(CREATE_CONTAINER)(payload)

Each listens at `proxy.sock` in the directory by default, and has a channel to it like kubelet's.
With `is_routed`, that is the router's socket, in front of the relay's own. For a whole proxy as a
separate process, see `proxy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc.aio

from cri_proxy.cri import channels
from cri_proxy.interposer.calls import Interceptor
from cri_proxy.interposer.relay import Relay
from cri_proxy.interposer.server import Server
from cri_proxy.lib import sockets
from cri_proxy.router.server import Router


@dataclass(frozen=True, slots=True)
class Serving:
    """A relay that serves at `place`; `upstream` is its channel, `caller` is a channel to it."""

    place: Path
    server: Server
    upstream: grpc.aio.Channel
    caller: grpc.aio.Channel
    router: Router | None = None

    async def aclose(self) -> None:
        """Close all connections; can be repeated."""
        await self.caller.close(None)
        if self.router is not None:
            await self.router.close()
        await self.server.stop()
        await self.upstream.close(None)


class Relays:
    """Starts relays in front of the runtime at `upstream`; they are closed with the context."""

    def __init__(self, directory: Path, upstream: Path, *, is_routed: bool = False) -> None:
        self.place = directory / "proxy.sock"
        self.is_routed = is_routed
        self._upstream = upstream
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def start(
        self,
        interceptors: Mapping[str, Interceptor] | None = None,
        *,
        place: Path | None = None,
        upstream: Path | None = None,
    ) -> Serving:
        """Start a relay and return it; raises the exceptions of its server's start."""
        place = place or self.place
        upstream = upstream or self._upstream
        channel = channels.dial(upstream)
        interceptors, access = interceptors or {}, sockets.access_of(upstream)
        own = place.with_name(f"i-{place.name}") if self.is_routed else place
        server = Server(Relay(channel, interceptors), own, access)
        self._stack.push_async_callback(channel.close, None)
        await server.start()
        router = None
        if self.is_routed:
            with sockets.listening(place, access) as (listener, _):
                router = Router(
                    [listener],
                    upstream=upstream,
                    interposer=own,
                    interposed=frozenset(interceptors),
                )
                await router.start()
        serving = Serving(place, server, channel, channels.dial(place), router)
        self._stack.push_async_callback(serving.aclose)
        return serving
