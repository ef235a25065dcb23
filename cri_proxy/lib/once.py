"""A value that is made when it is first needed, once, whoever needs it first.

For what costs much to make and may never be needed: the certificates of all authorities take some
tens of milliseconds to load, in each process that might speak TLS. Threads that come while it is
being made wait for it. If making it fails, that is raised, and whoever comes next tries again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What `make` returns."""

    __slots__ = ("_made", "_make", "_making")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._made: list[T] = []

    def get(self) -> T:
        """Return the value, made before if nobody has."""
        if not self._made:
            with self._making:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]
