"""The gRPC status of a call that the proxy itself refuses.

Interceptors raise errors of cri_proxy.errors, which know nothing of gRPC; here, and only here,
they get the code that makes kubelet do the right thing and a message that fits an event. The
runtime's own statuses never come here: the relay passes them on as they are.
"""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from cri_proxy import errors

# A pod's event holds one KiB and kubelet logs the rest; more helps nobody and costs every hop.
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
    """Return the code of `error`, or of the nearest class that it descends from."""
    return next(
        (_CODES[each] for each in type(error).__mro__ if each in _CODES), StatusCode.INTERNAL
    )


def message_of(error: errors.CriProxyError) -> str:
    """Return the sentence of `error`, shortened in its middle above MESSAGE_BYTES of UTF-8."""
    text = str(error).encode()
    if len(text) <= MESSAGE_BYTES:
        return text.decode()
    gap = b" [...] "
    half = (MESSAGE_BYTES - len(gap)) // 2
    # Cutting may split a letter; the halves of it are dropped.
    return (text[:half] + gap + text[-half:]).decode(errors="ignore")


def cause_of(error: Exception) -> Exception:
    """Return the one error that an exception group of task groups holds; else `error` itself.

    Interceptors work in task groups, which wrap what their tasks raise. With several errors at
    once the first stands for all: the others mostly follow from it.
    """
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
