"""The seam between the relay and the interceptors: a call, and what may stand in its way.

The relay knows no message and an interceptor knows no gRPC. It is handed the payload as it came
and the call, decides, and returns the answer's payload, which is usually what `forward` returned:

    async def create_container(payload: bytes, call: Call) -> bytes:
        return await call.forward(adjusted(payload))

It refuses by raising a CriProxyError. When kubelet gives up, the interceptor is cancelled wherever
it waits, and with it whatever it has forwarded or asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""Key-value pairs; keys are lower case, may repeat, and those ending in `-bin` have bytes."""


class Call(Protocol):
    """A unary call of kubelet's that is being answered."""

    @property
    def method(self) -> str:
        """The path, such as `/runtime.v1.RuntimeService/CreateContainer`."""

    @property
    def metadata(self) -> Metadata:
        """What the caller sent along, less what belongs to its connection."""

    def remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None if it set none."""

    async def forward(
        self, payload: bytes, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> bytes:
        """Call the same method of the runtime once, and return the payload of its answer.

        `metadata` is sent besides the caller's own, and instead of pairs with the same key. The
        answer's metadata is kept for the caller. A failure (grpc.aio.AioRpcError) may be looked
        at but should go on as it is: then the caller gets the runtime's status, untouched.
        """


class Interceptor(Protocol):
    """What answers a method in the relay's stead; it must not block the event loop."""

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Return the payload of the answer, or raise a CriProxyError to refuse."""
