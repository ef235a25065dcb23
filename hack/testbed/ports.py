"""Ports that stay one's own, whether or not somebody listens at them at the moment.

A port that was free a moment ago is another program's a moment later: the kernel gives it to
whoever asks for any. One that is bound it gives to nobody, and a bound socket that never listens
does not stop others who name the port from listening there (as long as both have SO_REUSEADDR, as
all servers here do). So connections to a kept port are refused until its server starts, and again
from when it stops.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[int]:
    """Keep a port, on every address of this machine, while the context lasts."""
    with _bound() as bound:
        yield bound.getsockname()[1]


def kept_for(owner: object) -> int:
    """Return a port that is kept as long as `owner` is there."""
    bound = _bound()
    weakref.finalize(owner, bound.close)
    port: int = bound.getsockname()[1]
    return port


def _bound() -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("", 0))
    return bound
