"""Lazy values: made on first use, once, by whichever thread comes first.

For what is expensive to make and may never be needed: the certificates of all authorities take tens
of milliseconds to load, in each process that might use TLS. Other threads wait while a value is
being made. An error is raised to the caller, and the next call tries again. cached_property of
functools has no lock since Python 3.12, so several threads would load the certificates at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """The value that `make` returns."""

    __slots__ = ("_made", "_make", "_making")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._made: list[T] = []

    def get(self) -> T:
        """Return the value; make it if this is the first call."""
        if not self._made:
            with self._making:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]
