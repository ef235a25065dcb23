"""Exceptions by what the caller can do about them.

Every refusal that reaches a person is one of these classes: raised where the fault is found,
carried across the worker boundary by name (`to_wire`, `of_wire`), and translated to a gRPC status
once, in `interposer.status`. The message is one sentence that an operator can act on: what was
tried, for which reference or store path, what to do. A class stands for an action, not for a thing
that broke.
"""

from __future__ import annotations

from typing import Final


class CriProxyError(Exception):
    """The base of all refusals; `str()` of it is the sentence for the operator."""


class RequestInvalid(CriProxyError):
    """What was asked for cannot be read or contradicts itself: mend the pod or the settings."""


class NotFound(CriProxyError):
    """The environment, generation or store path does not exist: mend the reference, or push it."""


class AccessDenied(CriProxyError):
    """The token is missing, wrong or expired: mend the token."""


class EnvironmentUnsuitable(CriProxyError):
    """The environment exists but cannot run here: mend the environment itself."""


class SignatureUntrusted(CriProxyError):
    """No trusted key signed the store path: trust the key, or sign the path."""


class ContentDamaged(CriProxyError):
    """What a cache, FloxHub or the disk gave is not what was promised: mend that source."""


class SourceUnreachable(CriProxyError):
    """FloxHub, a cache or the runtime gave no answer: try again later."""


class NodeExhausted(CriProxyError):
    """The node lacks disk space or another resource: free some, then try again."""


class StillRealizing(CriProxyError):
    """The deadline came before the environment was ready: the work goes on, ask again."""


class InternalFault(CriProxyError):
    """A fault of our own: the log has the details."""


_BY_NAME: Final = {
    each.__name__: each
    for each in (
        RequestInvalid,
        NotFound,
        AccessDenied,
        EnvironmentUnsuitable,
        SignatureUntrusted,
        ContentDamaged,
        SourceUnreachable,
        NodeExhausted,
        StillRealizing,
        InternalFault,
    )
}


def to_wire(error: CriProxyError) -> dict[str, str]:
    """Return `{"kind", "message"}` of an error, as workers send it."""
    return {"kind": type(error).__name__, "message": str(error)}


def of_wire(wire: dict[str, str]) -> CriProxyError:
    """Return the error that `to_wire` described; an unknown kind becomes InternalFault."""
    return _BY_NAME.get(wire["kind"], InternalFault)(wire["message"])
