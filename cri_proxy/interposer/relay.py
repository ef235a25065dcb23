"""The relay: a generic gRPC handler that forwards every method of every service as bytes.

Methods that the CRI is known to have are forwarded cheaply: one message up, and one message or a
stream of them down. Any other method (of a newer CRI, of containerd's own services) is forwarded as
a stream of messages both ways, which every gRPC call is underneath. Forwarded unchanged are the
payloads (the same bytes object, unless an interceptor answers the method), metadata both ways, the
deadline as remaining time, half-close, cancellation, the status with its details, and trailers.

Not forwarded are `user-agent` and the `grpc-*` headers of a connection (C-core hides those), and
compression, which is per hop. Nothing is retried, and no deadline is added. The headers of a unary
response are sent with it, those of a stream at once, so that the caller sees an idle stream open.

An interceptor's refusal becomes a status here, by `status`; its other exceptions are bugs, logged
once and reported as INTERNAL. A failure of the forwarded call passes unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, cast

import grpc
import grpc.aio

from cri_proxy import errors
from cri_proxy.cri import methods
from cri_proxy.interposer import status
from cri_proxy.interposer.calls import Call, Interceptor, Metadata
from cri_proxy.telemetry import logs

if TYPE_CHECKING:
    _Handler: TypeAlias = grpc.GenericRpcHandler[bytes, bytes]
    _MethodHandler: TypeAlias = grpc.RpcMethodHandler[bytes, bytes]
    _Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
    _Upstream: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    _UpstreamStream: TypeAlias = (
        grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes]
    )
else:  # the stubs are generic, the classes are not
    _Handler = grpc.GenericRpcHandler

# A deadline of some hundred years overflows C-core's clock and would be over at once.
LONGEST_SECONDS: Final = 1e9

# See _delayed_end. C-core reports a cancellation within a millisecond of ending the payloads.
HALF_CLOSE_SECONDS: Final = 0.005

_NONE: Final[Mapping[str, Interceptor]] = MappingProxyType({})
_log = logs.of(__name__)


class Relay(_Handler):
    """The generic handler of a grpc.aio server; `interceptors` answer unary methods, by path."""

    def __init__(
        self, channel: grpc.aio.Channel, interceptors: Mapping[str, Interceptor] = _NONE
    ) -> None:
        self._channel = channel
        self._streams: set[_Stream] = set()
        self._known: dict[str, _MethodHandler] = {
            path: self._streaming_handler(path) for path in methods.STREAMING
        } | {
            path: _unary_handler(path, channel, interceptors.get(path, _forward))
            for path in methods.UNARY | interceptors.keys()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """Return the handler for the method of a new call; every method has one."""
        path = handler_call_details.method
        return self._known.get(path) or self._unknown_handler(path)

    def end_streams(self) -> None:
        """End the streams that have no end of their own, with UNAVAILABLE; see server.drain."""
        for stream in tuple(self._streams):
            if stream.is_endless:
                stream.end()

    def _streaming_handler(self, path: str) -> _MethodHandler:
        """Return a handler for a method of the CRI that responds with a stream."""
        upstream = self._channel.unary_stream(path, None, None)

        async def handle(payload: bytes, context: _Context) -> None:
            call = upstream(payload, timeout=_remaining(context), metadata=_metadata_of(context))
            await _Stream(self._streams, call, context, _is_known=True).carry()

        return grpc.unary_stream_rpc_method_handler(handle)

    def _unknown_handler(self, path: str) -> _MethodHandler:
        """Return a handler for any other method; not cached, because callers choose the names."""

        async def handle(payloads: AsyncIterator[bytes], context: _Context) -> None:
            call = self._channel.stream_stream(path, None, None)(
                _delayed_end(payloads), timeout=_remaining(context), metadata=_metadata_of(context)
            )
            _keep_status(call)
            await _Stream(self._streams, call, context, _is_known=False).carry()

        return grpc.stream_stream_rpc_method_handler(handle)


@dataclass(slots=True, eq=False)
class _Stream:
    """A call whose response is forwarded as a stream; `_others` has those in progress."""

    _others: set[_Stream]
    _upstream: _UpstreamStream
    _context: _Context
    _is_known: bool
    _has_responded: bool = False
    _is_ended: bool = False

    @property
    def is_endless(self) -> bool:
        """The call has no deadline and is a stream, not a unary call of an unknown method."""
        return self._context.time_remaining() is None and (self._is_known or self._has_responded)

    def end(self) -> None:
        """Cancel the call upstream; the caller gets UNAVAILABLE."""
        self._is_ended = True
        self._upstream.cancel()

    async def carry(self) -> None:
        """Forward the responses until there are no more, then the status; requests move by gRPC."""
        context, upstream = self._context, self._upstream
        self._others.add(self)
        try:
            await context.send_initial_metadata(tuple(await upstream.initial_metadata()))
            async for payload in upstream:
                self._has_responded = True
                await context.write(payload)
            context.set_trailing_metadata(tuple(await upstream.trailing_metadata()))
            return
        except grpc.aio.AioRpcError as failure:
            refusal = failure
        except asyncio.CancelledError:
            if not self._is_ended or _is_cancelled():
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cri-proxy is stopping: retry")
        finally:
            upstream.cancel()
            self._others.discard(self)
        await _abort_as(refusal, context)


class _UnaryCall:
    """The call that an interceptor gets, and the metadata to return to its caller."""

    def __init__(self, path: str, upstream: _Upstream, context: _Context) -> None:
        self.method = path
        self.metadata = _metadata_of(context)
        self._upstream = upstream
        self._context = context
        self._headers: Metadata = ()
        self._trailers: Metadata = ()

    def remaining(self) -> float | None:
        return _remaining(self._context)

    async def forward(
        self, payload: bytes, *, metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> bytes:
        replaced = {key for key, _ in metadata}
        kept = (pair for pair in self.metadata if pair[0] not in replaced)
        upstream = self._upstream(payload, timeout=self.remaining(), metadata=(*kept, *metadata))
        response = await upstream  # cancels the call upstream if it is cancelled itself
        self._headers = tuple(await upstream.initial_metadata())
        self._trailers = tuple(await upstream.trailing_metadata())
        return response

    async def send_metadata(self) -> None:
        """Send the metadata of the runtime's response to the caller."""
        if self._headers:
            await self._context.send_initial_metadata(self._headers)
        if self._trailers:
            self._context.set_trailing_metadata(self._trailers)


def _unary_handler(
    path: str, channel: grpc.aio.Channel, interceptor: Interceptor
) -> _MethodHandler:
    upstream = channel.unary_unary(path, None, None)

    async def handle(payload: bytes, context: _Context) -> bytes:
        call = _UnaryCall(path, upstream, context)
        try:
            response = await interceptor(payload, call)
        except Exception as error:  # noqa: BLE001 - one call must not break others
            refusal = status.cause_of(error)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            # Not this call was cancelled, but something that the interceptor waited for. Without a
            # status the caller would wait for ever.
            refusal = errors.InternalFault(f"cri-proxy cancelled {path} internally: retry")
            refusal.__cause__ = error
        else:
            await call.send_metadata()
            return response
        return await _refuse(refusal, path, context)

    return grpc.unary_unary_rpc_method_handler(handle)


async def _forward(payload: bytes, call: Call) -> bytes:
    """Forward the call unchanged (the default interceptor)."""
    return await call.forward(payload)


async def _refuse(error: Exception, path: str, context: _Context) -> NoReturn:
    """End the call with the status of `error`, and log it unless it is the runtime's."""
    if isinstance(error, grpc.aio.AioRpcError):
        headers: Metadata = tuple(error.initial_metadata() or ())
        if headers:
            await context.send_initial_metadata(headers)
        await _abort_as(error, context)
    if not isinstance(error, errors.CriProxyError):
        _log.error("internal error", method=path, kind=type(error).__name__, fault=error)
        error = errors.InternalFault(
            f"internal error of cri-proxy in {path} ({type(error).__name__}): see its log"
        )
    else:
        _log.warning("call refused", method=path, kind=type(error).__name__, why=error)
    await context.abort(status.code_of(error), status.message_of(error))


async def _abort_as(failure: grpc.aio.AioRpcError, context: _Context) -> NoReturn:
    """End the call as the runtime did: with its code, message and trailers (with the details)."""
    # abort() accepts only a tuple; given grpc's own Metadata, every error becomes UNKNOWN.
    trailers = cast("Metadata", tuple(failure.trailing_metadata() or ()))
    await context.abort(failure.code(), failure.details() or "", trailers)


@dataclass(frozen=True)
class _StatusKept:
    """gRPC's internal half of a call, without its replacing of the status; see `_keep_status`."""

    _call: object

    def __getattr__(self, name: str) -> object:
        return getattr(self._call, name)

    def set_internal_error(self, error: str) -> None:
        """Ignore the error: writing failed because the runtime has sent a status already."""


def _keep_status(call: _UpstreamStream) -> None:
    """Keep the runtime's status of a call that is refused before its payload was written.

    grpc.aio treats a failed write as an internal error and ends the call with INTERNAL, during the
    few microseconds in which the runtime's status has arrived but has not been read (seen in 6 of
    100 calls that were refused at once, grpcio 1.85). Without that it waits for the status. There
    is no public API for this; if the private attribute disappears, calls behave as gRPC makes them.
    """
    inner = getattr(call, "_cython_call", None)
    if inner is not None:
        setattr(call, "_cython_call", _StatusKept(inner))  # noqa: B010 - private: not in the stubs


async def _delayed_end(payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the caller's payloads, and end a moment later than they do.

    gRPC ends them when the caller half-closes, but also when it cancels, shortly before it reports
    the cancellation. The runtime must not mistake a cancelled upload for a complete one:

     1. The payloads end, for one of these reasons.
     2. We wait. If the call turns out to be cancelled, the call upstream and the wait are, too.
     3. We end, and the call upstream is half-closed.

    Remaining risk: a machine so busy that the cancellation takes longer.
    """
    async for payload in payloads:
        yield payload
    await asyncio.sleep(HALF_CLOSE_SECONDS)


def _remaining(context: _Context) -> float | None:
    """Return the seconds until the caller's deadline, within C-core's range; None for none."""
    seconds: float | None = context.time_remaining()
    return None if seconds is None else min(seconds, LONGEST_SECONDS)


def _metadata_of(context: _Context) -> Metadata:
    """Return the caller's metadata without `user-agent`: C-core sends its own."""
    pairs = context.invocation_metadata() or ()
    return tuple((key, value) for key, value in pairs if key != "user-agent")


def _is_cancelled() -> bool:
    """Return whether this call itself is being cancelled, not just something it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
