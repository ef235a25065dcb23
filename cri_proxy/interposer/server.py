"""The interposer's gRPC server: listens on a socket, and shuts down gracefully.

Its client is kubelet or the router. Shutdown goes in this order:

 1. The socket is closed and every connection gets a GOAWAY. New calls go to new connections: to
    the successor, if one listens at the same path. Calls in flight continue.
 2. Endless streams, such as GetContainerEvents, end with UNAVAILABLE, and not before step 1:
    kubelet opens them again at once, and gives up on events after it has lost five streams.
 3. All other calls have the grace period to finish, such as pulls and container creations.
 4. The rest is cancelled, here and at the runtime.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc.aio

from cri_proxy import errors
from cri_proxy.cri import channels
from cri_proxy.interposer.relay import Relay
from cri_proxy.lib import sockets

_OPTIONS: Final = (
    *channels.LIMITS,
    # One listener for one path; the takeover is by rename.
    ("grpc.so_reuseport", 0),
)


class Server:
    """Serves `relay` on the unix socket `place`, with the owner and mode of `access`."""

    def __init__(
        self, relay: Relay, place: Path, access: sockets.Access, *, is_replacing: bool = False
    ) -> None:
        self.taken: sockets.Taken | None = None
        """The socket, once the server listens."""
        self._relay = relay
        self._place = place
        self._access = access
        self._is_replacing = is_replacing
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((relay,))

    async def start(self) -> None:
        """Listen and serve; raise RequestInvalid if the socket cannot be created."""
        replacing = self._is_replacing
        with sockets.staged(self._place, self._access, is_replacing=replacing) as stage:
            try:
                self._server.add_insecure_port(channels.address_of(stage.name))
            except RuntimeError as failure:  # gRPC gives no reason
                raise errors.RequestInvalid(
                    f"cannot listen at {self._place}: check that its directory is writable and "
                    "has free space"
                ) from failure
            await self._server.start()
            self.taken = stage.taken()

    async def drain(self, grace: float) -> None:
        """Shut down within `grace` seconds, in the order above."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server.stop(grace))
            await asyncio.sleep(0)  # lets stop() close the socket before the streams end
            self._relay.end_streams()

    async def stop(self) -> None:
        """Stop at once: every call is cancelled, here and at the runtime."""
        await self._server.stop(None)
