"""Call metrics: every call is counted when it ends, and timed as well where we have a part in it.

    kubelet ── Router ── (lent) ── MeteredRelay ── runtime      counted and timed by the relay
                  └──────────────────────────────── runtime      counted by the router

A call is counted once, by the last of our parts that sees its status: the router reads statuses
from frames (`router.counting`), the relay from gRPC. Both end in `count`. Methods that the CRI does
not have are counted as one, `_OTHER`, because their names come from outside.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import grpc
import grpc.aio

from cri_proxy.interposer.calls import Interceptor
from cri_proxy.interposer.relay import Relay
from cri_proxy.lib import meters
from cri_proxy.router.counting import CANCELLED, OTHER

if TYPE_CHECKING:
    _MethodHandler: TypeAlias = grpc.RpcMethodHandler[bytes, bytes]
    _Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
    _Behaviour: TypeAlias = Callable[[object, _Context], Awaitable[object]]

_calls = meters.counter(
    "cri_proxy_calls_total",
    "Calls of kubelet and other clients by method and status.",
    "rpc_method",
    "rpc_status_code",
)
_seconds = meters.histogram(
    "rpc_server_call_duration_seconds",
    "Duration of the calls that cri-proxy takes part in, as kubelet sees it.",
    "rpc_system_name",
    "rpc_method",
    "rpc_status_code",
)

# gRPC has a code as an object or as its number, depending on where the call ended.
_STATUSES: Final[Mapping[object, str]] = {
    key: code.name for code in grpc.StatusCode for key in (code, code.value[0])
}
_KINDS: Final[Mapping[str, Callable[..., object]]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


def count(method: str, status: str) -> None:
    """Count one call by its method, without the first slash, and the name of its status."""
    _calls.add(1, method, status)


class MeteredRelay(Relay):
    """A relay that counts all calls, and times those of methods with an interceptor."""

    def __init__(self, channel: grpc.aio.Channel, interceptors: Mapping[str, Interceptor]) -> None:
        super().__init__(channel, interceptors)
        self._metered = {
            path: _metered(path[1:], handler, is_timed=path in interceptors)
            for path, handler in self._known.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler:
        """Return the relay's handler of the method, with a meter around it."""
        found = self._metered.get(handler_call_details.method)
        return found or _metered(OTHER, super().service(handler_call_details), is_timed=False)


def _metered(method: str, handler: _MethodHandler, *, is_timed: bool) -> _MethodHandler:
    """Return a handler of the same kind that meters each call of `handler`."""
    inner, make = next(
        (getattr(handler, kind), make)
        for kind, make in _KINDS.items()
        if getattr(handler, kind) is not None
    )
    behaviour = cast("_Behaviour", inner)

    async def metered(request: object, context: _Context) -> object:
        begun = time.monotonic()
        status = "OK"
        try:
            return await behaviour(request, context)
        except BaseException:
            # An abort leaves its code in the context; a caller that gave up leaves none.
            status = _STATUSES.get(context.code(), CANCELLED)
            raise
        finally:
            count(method, status)
            if is_timed:
                _seconds.record(time.monotonic() - begun, "grpc", method, status)

    return cast("_MethodHandler", make(metered))
