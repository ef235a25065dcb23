"""Reserved TCP ports, which no other program gets even while their servers are not running.

The kernel may assign a free port to any program that asks for one, but it does not assign a bound
port; and a bound socket that does not listen does not prevent others from listening at the same
port (if both have SO_REUSEADDR, as all servers here do). So connections to a reserved port are
refused until its server starts, and again after it has stopped.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[int]:
    """Reserve a port on all addresses of this machine while the context lasts."""
    with _bound() as bound:
        yield bound.getsockname()[1]


def kept_for(owner: object) -> int:
    """Return a port that is reserved as long as `owner` exists."""
    bound = _bound()
    weakref.finalize(owner, bound.close)
    port: int = bound.getsockname()[1]
    return port


def _bound() -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("", 0))
    return bound
