"""Exceptions by what the caller can do about them.

Every refusal that reaches a person is one of these classes: raised where the fault is found,
sent between processes as an `ErrorRecord` (`to_wire`, `of_wire`), and translated to a gRPC status
once, in `interposer.status`. The message is one sentence that an operator can act on: what was
tried, for which reference or store path, what to do. A class stands for an action, not for a thing
that broke; a subclass defined elsewhere crosses as the nearest of these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


class CriProxyError(Exception):
    """The base of all refusals; `str()` of it is the sentence for the operator."""


class RequestInvalid(CriProxyError):
    """The request cannot be read or contradicts itself: fix the pod or the settings."""


class NotFound(CriProxyError):
    """The environment, generation or store path does not exist: fix the reference, or push it."""


class AccessDenied(CriProxyError):
    """The token is missing, wrong or expired: replace the token."""


class EnvironmentUnsuitable(CriProxyError):
    """The environment exists but cannot run here: change the environment itself."""


class SignatureUntrusted(CriProxyError):
    """No trusted key signed the store path: trust the key, or sign the path."""


class ContentDamaged(CriProxyError):
    """A cache, FloxHub or the disk returned something else than it promised: repair that source."""


class SourceUnreachable(CriProxyError):
    """FloxHub, a cache or the runtime did not answer: try again later."""


class NodeExhausted(CriProxyError):
    """The node lacks disk space or another resource: free some, then try again."""


class StillRealizing(CriProxyError):
    """The deadline came before the environment was ready: the work goes on, ask again."""


class InternalFault(CriProxyError):
    """A fault of our own: the log has the details."""


# Subclasses of other modules are not among them: those are defined after this line has run.
_BY_NAME: Final = {each.__name__: each for each in CriProxyError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error as it travels between processes: the name of its class, and its message."""

    kind: str
    message: str


def to_wire(error: CriProxyError) -> ErrorRecord:
    """Return the record of an error: of its class, or of the nearest base that is defined here."""
    names = (each.__name__ for each in type(error).__mro__)
    kind = next((name for name in names if name in _BY_NAME), InternalFault.__name__)
    return ErrorRecord(kind, str(error))


def of_wire(record: ErrorRecord) -> CriProxyError:
    """Return the error that `to_wire` described; an unknown kind becomes InternalFault."""
    return _BY_NAME.get(record.kind, InternalFault)(record.message)
