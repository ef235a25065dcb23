"""Why a request has no usable response: one class for each cause that a caller explains.

The text of each is a clause for operators ("closed the connection without an answer") and contains
no credentials. `text_of` is the same for errors of the operating system.
"""

from __future__ import annotations


class RequestFailed(Exception):
    """No usable response."""


class Unresolved(RequestFailed):
    """The host's name does not resolve."""


class Unconnected(RequestFailed):
    """No connection to the host."""


class ProxyFailed(RequestFailed):
    """The proxy is unreachable, or refuses a tunnel."""


class TLSFailed(RequestFailed):
    """The certificate is not trusted, or the handshake failed."""


class TimedOut(RequestFailed):
    """The server was silent for too long."""


class Broken(RequestFailed):
    """The server does not speak HTTP as supported here, or closed the connection too early."""


class Stale(Broken):
    """The server had closed the idle connection, and has not seen the request."""


class RedirectRefused(Broken):
    """A redirect to `url` that is not followed."""

    def __init__(self, message: str, url: str) -> None:
        super().__init__(message)
        self.url = url


class TooManyRedirects(Broken):
    """Redirects that lead on and on."""


class TooLarge(RequestFailed):
    """A body beyond the limit of its request."""


def text_of(error: Exception) -> str:
    """Return the operating system's words for an error, or the error's own."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
