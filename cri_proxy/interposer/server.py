"""The interposer's gRPC server: listens at a socket, and stops without breaking what can finish.

It knows its own socket and the relay, nothing of what is in front: kubelet itself, or the router.
Stopping goes in this order:

 1. The socket is closed and every connection told so (GOAWAY). New calls go to new connections:
    to the successor, if one listens at the same path. What was called goes on.
 2. Streams without an end, such as GetContainerEvents, are ended with UNAVAILABLE, and not before
    step 1: kubelet opens them again at once, and gives up on events after five streams lost.
 3. Everything else has the grace to finish, pulls and container creations among them.
 4. What is left is cancelled, here and at the runtime.
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
    """Serves `relay` at the unix socket `place`, for those whom `access` admits."""

    def __init__(
        self, relay: Relay, place: Path, access: sockets.Access, *, is_replacing: bool = False
    ) -> None:
        self.taken: sockets.Taken | None = None
        """The place, once the server listens there."""
        self._relay = relay
        self._place = place
        self._access = access
        self._is_replacing = is_replacing
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((relay,))

    async def start(self) -> None:
        """Listen; when this returns, whoever connects is served.

        Raises RequestInvalid if the place cannot be had.
        """
        replacing = self._is_replacing
        with sockets.staged(self._place, self._access, is_replacing=replacing) as stage:
            try:
                self._server.add_insecure_port(channels.address_of(stage.name))
            except RuntimeError as failure:  # which is all that gRPC says
                raise errors.RequestInvalid(
                    f"cannot listen at {self._place}: check that its directory can be written to "
                    "and has room"
                ) from failure
            await self._server.start()
            self.taken = stage.taken()

    async def drain(self, grace: float) -> None:
        """Stop within `grace` seconds, in the order told above."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server.stop(grace))
            await asyncio.sleep(0)  # lets stop() close the socket before the streams end
            self._relay.end_streams()

    async def stop(self) -> None:
        """Stop at once: every call is cancelled, here and at the runtime."""
        await self._server.stop(None)
