"""The gRPC status of a call that the proxy itself refuses.

Errors get the code that makes kubelet do the right thing, and a message that fits into an event.
The runtime's own statuses are forwarded by the relay; `of_outcome` only describes them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio
from grpc import StatusCode

from cri_proxy import errors
from cri_proxy.lib import redaction

# A pod's event holds one KiB and kubelet logs the rest; longer messages only cost every hop.
MESSAGE_BYTES: Final = 4096

_CODES: Final[dict[type[errors.CriProxyError], StatusCode]] = {
    errors.RequestInvalid: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AccessDenied: StatusCode.PERMISSION_DENIED,
    errors.EnvironmentUnsuitable: StatusCode.FAILED_PRECONDITION,
    errors.SignatureUntrusted: StatusCode.FAILED_PRECONDITION,
    errors.ContentDamaged: StatusCode.DATA_LOSS,
    errors.SourceUnreachable: StatusCode.UNAVAILABLE,
    errors.StillRealizing: StatusCode.UNAVAILABLE,
    errors.NodeExhausted: StatusCode.RESOURCE_EXHAUSTED,
    errors.InternalFault: StatusCode.INTERNAL,
}


def code_of(error: errors.CriProxyError) -> StatusCode:
    """Return the code of the class of `error`, or of its nearest base class that has one."""
    return next(
        (_CODES[each] for each in type(error).__mro__ if each in _CODES), StatusCode.INTERNAL
    )


def message_of(error: errors.CriProxyError) -> str:
    """Return the message of `error`, shortened in the middle above MESSAGE_BYTES of UTF-8."""
    text = str(error).encode()
    if len(text) <= MESSAGE_BYTES:
        return text.decode()
    gap = b" [...] "
    half = (MESSAGE_BYTES - len(gap)) // 2
    # Cutting may split a character; its halves are dropped.
    return (text[:half] + gap + text[-half:]).decode(errors="ignore")


def of_outcome(error: BaseException) -> tuple[str, str]:
    """Return code and message of the status that the caller gets for an interceptor's exception."""
    if isinstance(error, Exception):
        error = cause_of(error)
    match error:
        case grpc.aio.AioRpcError():
            return error.code().name, redaction.text(error.details() or "")
        case errors.CriProxyError():
            return code_of(error).name, redaction.text(message_of(error))
        case asyncio.CancelledError():
            return StatusCode.CANCELLED.name, "cancelled by the caller"
        case _:
            return StatusCode.INTERNAL.name, type(error).__name__


def cause_of(error: Exception) -> Exception:
    """Return the first error of a task group (others mostly follow from it), or `error` itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
