"""The interface between the relay and the interceptors: a call, and what may answer it instead.

The relay knows no messages and an interceptor knows no gRPC. An interceptor gets the payload as
received and the call, decides, and returns the response's payload, usually what `forward` returned:

    async def create_container(payload: bytes, call: Call) -> bytes:
        return await call.forward(adjusted(payload))

It refuses by raising a CriProxyError. When kubelet cancels the call, the interceptor is cancelled
wherever it waits, and so is every call that it has forwarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""Key-value pairs; keys are lower case, may repeat, and those ending in `-bin` have bytes."""


class Call(Protocol):
    """A unary call of kubelet in progress."""

    @property
    def method(self) -> str:
        """The path, such as `/runtime.v1.RuntimeService/CreateContainer`."""

    @property
    def metadata(self) -> Metadata:
        """The caller's metadata, without what belongs to its connection."""

    def remaining(self) -> float | None:
        """Return the seconds until the caller's deadline, None if it set none."""

    async def forward(
        self, payload: bytes, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> bytes:
        """Call the same method of the runtime once, and return the payload of its response.

        `metadata` is sent in addition to the caller's own, and replaces pairs with the same key.
        The response's metadata is kept for the caller. A failure (grpc.aio.AioRpcError) may be
        inspected but should be raised again: then the caller gets the runtime's status unchanged.
        """


class Interceptor(Protocol):
    """Answers a method in place of the relay; must not block the event loop."""

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Return the payload of the response, or raise a CriProxyError to refuse the call."""
