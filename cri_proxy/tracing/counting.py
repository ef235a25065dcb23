"""Counting: the relay, with every call counted by method and status when it is over.

A method that the CRI does not know is counted as `_OTHER`: names of methods come from outside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import grpc
import grpc.aio

from cri_proxy.cri import methods
from cri_proxy.interposer.calls import Interceptor
from cri_proxy.interposer.relay import Relay
from cri_proxy.telemetry.meters import Tally

if TYPE_CHECKING:
    _MethodHandler: TypeAlias = grpc.RpcMethodHandler[bytes, bytes]
    _Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
    _Behaviour: TypeAlias = Callable[[object, _Context], Awaitable[object]]

OTHER: Final = "_OTHER"
_NAMES: Final[Mapping[object, str]] = {
    key: code.name for code in grpc.StatusCode for key in (code, code.value[0])
}
_KINDS: Final[Mapping[str, Callable[..., object]]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


class CountingRelay(Relay):
    """A relay that counts in `tally`."""

    def __init__(
        self, channel: grpc.aio.Channel, interceptors: Mapping[str, Interceptor], tally: Tally
    ) -> None:
        super().__init__(channel, interceptors)
        self._tally = tally
        self._counted = {
            path: self._counting(path[1:], handler) for path, handler in self._known.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """Return what carries the method and counts."""
        path = handler_call_details.method
        if path in methods.ALL:
            return self._counted[path]
        return self._counting(OTHER, super().service(handler_call_details))

    def _counting(self, method: str, handler: _MethodHandler) -> _MethodHandler:
        """Return a handler of the same kind that counts each call of `handler`."""
        found, make = next(
            (getattr(handler, kind), make)
            for kind, make in _KINDS.items()
            if getattr(handler, kind) is not None
        )
        answer = cast("_Behaviour", found)

        async def counted(request: object, context: _Context) -> object:
            try:
                answered = await answer(request, context)
            except BaseException:
                # An abort leaves its code there; a caller that gave up leaves none.
                self._tally.count(method, _NAMES.get(context.code(), "CANCELLED"))
                raise
            self._tally.count(method, "OK")
            return answered

        return cast("_MethodHandler", make(counted))
