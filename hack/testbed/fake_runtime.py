"""A fake runtime that records its calls byte for byte, and gives configured answers.

It replaces containerd: a gRPC server on a unix socket that accepts every method of every service. A
call is `Recorded` as soon as it arrives, so that a test can wait for its arrival, half-close or
cancellation. By default, a method echoes each payload; `on` sets another behaviour, `answer` and
`fail` the common ones.

    async with FakeRuntime(directory / "runtime.sock") as runtime:
        runtime.answer("/runtime.v1.RuntimeService/Version", VersionResponse(...))
        ...
        call = await runtime.called("/runtime.v1.RuntimeService/Version")
        assert call.payloads == [b""]

It does not implement containers: what only a real runtime does is tested with a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from cri_proxy.cri import channels

if TYPE_CHECKING:
    _Handler: TypeAlias = grpc.GenericRpcHandler[bytes, bytes]
    _MethodHandler: TypeAlias = grpc.RpcMethodHandler[bytes, bytes]
    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
else:  # the stubs are generic, the classes are not
    _Handler = grpc.GenericRpcHandler
    Context = grpc.aio.ServicerContext

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

DEADLINE_SECONDS: Final = 60.0
"""The timeout for what should happen soon, on a busy machine."""


@dataclass(eq=False, slots=True)
class Recorded:
    """A received call; `seconds_left` is None without a deadline."""

    path: str
    metadata: Metadata
    seconds_left: float | None
    payloads: list[bytes] = field(default_factory=list)
    half_closed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def values_of(self, key: str) -> list[str | bytes]:
        """Return all metadata values of `key`, in order."""
        return [value for each, value in self.metadata if each == key]


Behaviour: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]
"""Reads the caller's payloads (each is recorded when read) and answers on the context."""


class FakeRuntime(_Handler):
    """A recording server at `socket` while the context lasts; it can be stopped and started."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.calls: list[Recorded] = []
        self._behaviours: dict[str, Behaviour] = {}
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; like containerd, replace an old socket file."""
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=channels.LIMITS)
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(channels.address_of(self.socket))
        await self._server.start()

    async def stop(self) -> None:
        """Cancel all calls, stop listening and delete the socket file."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def on(self, path: str, behaviour: Behaviour) -> None:
        """Serve the method with `behaviour` from now on."""
        self._behaviours[path] = behaviour

    def answer(
        self,
        path: str,
        payload: bytes | Message,
        *,
        headers: Metadata = (),
        trailers: Metadata = (),
    ) -> None:
        """Answer every call of the method with one payload, once the caller has half-closed."""
        data = payload.SerializeToString() if isinstance(payload, Message) else payload

        async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
            async for _ in payloads:
                pass
            await context.send_initial_metadata(headers)
            await context.write(data)
            context.set_trailing_metadata(trailers)

        self.on(path, behaviour)

    def fail(
        self, path: str, code: grpc.StatusCode, message: str = "", *, trailers: Metadata = ()
    ) -> None:
        """Fail every call of the method, once the caller has half-closed."""

        async def behaviour(payloads: AsyncIterator[bytes], context: Context) -> None:
            async for _ in payloads:
                pass
            await context.abort(code, message, trailers)

        self.on(path, behaviour)

    async def called(self, path: str, *, times: int = 1) -> Recorded:
        """Wait until the method has been called `times` times, and return the last call."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self._calls_of(path)) >= times)
        return self._calls_of(path)[times - 1]

    def _calls_of(self, path: str) -> list[Recorded]:
        return [call for call in self.calls if call.path == path]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """Return the handler for any call; every kind of method can be served as a stream."""
        path = handler_call_details.method

        async def handle(payloads: AsyncIterator[bytes], context: Context) -> None:
            call = Recorded(
                path,
                tuple((key, value) for key, value in context.invocation_metadata() or ()),
                context.time_remaining(),
            )
            async with self._changed:
                self.calls.append(call)
                self._changed.notify_all()
            behaviour = self._behaviours.get(path, _echo)
            try:
                await behaviour(_recording(payloads, call), context)
            except asyncio.CancelledError:
                call.cancelled.set()
                raise

        return grpc.stream_stream_rpc_method_handler(handle)


async def _recording(payloads: AsyncIterator[bytes], call: Recorded) -> AsyncIterator[bytes]:
    async for payload in payloads:
        call.payloads.append(payload)
        yield payload
    call.half_closed.set()


async def _echo(payloads: AsyncIterator[bytes], context: Context) -> None:
    async for payload in payloads:
        await context.write(payload)
