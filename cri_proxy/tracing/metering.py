"""Metering: how long the calls take that the proxy has a part in, by method and status.

It stands around the interceptors and changes nothing. The calls that pass without us are counted
by the relay, whose counting costs less.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from cri_proxy.interposer import status
from cri_proxy.interposer.calls import Call, Interceptor
from cri_proxy.telemetry import meters

_seconds = meters.histogram(
    "rpc.server.call.duration", "s", "calls that the proxy has a part in, as kubelet sees them"
)


def around(interceptors: Mapping[str, Interceptor]) -> dict[str, Interceptor]:
    """Return the interceptors, each with a clock around it, by method path."""
    return {path: Metered(path, inner) for path, inner in interceptors.items()}


class Metered:
    """One method, measured."""

    def __init__(self, path: str, inner: Interceptor) -> None:
        self._method = path[1:]
        self._inner = inner

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Answer as the interceptor inside does."""
        begun = time.monotonic()
        code = "OK"
        try:
            return await self._inner(payload, call)
        except BaseException as error:
            code = status.of_outcome(error)[0]
            raise
        finally:
            _seconds.record(
                time.monotonic() - begun,
                {
                    "rpc.system.name": "grpc",
                    "rpc.method": self._method,
                    "rpc.status_code": code,
                },
            )
