"""Archives on their way from a cache to the unpacker: awaited, counted, cancelled."""

from __future__ import annotations

import collections
import threading
from typing import Final

from cri_proxy.lib.job import Task
from cri_proxy.store import nar

_REPORTED_BYTES: Final = 4 * 1024 * 1024
_AWAITED_BYTES: Final = 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024


class Awaited:
    """The bytes of an archive from its cache; others unpack while this one waits for the network.

    Much is awaited at a time: threads that hand the turn to each other for every piece from the
    network spend half of their time on that. Most archives are awaited once, before they have a
    turn to give up.
    """

    def __init__(self, body: nar.ByteSource, turns: threading.Semaphore, task: Task[int]) -> None:
        self._body = body
        self._turns = turns
        self._task = task
        self._pieces = self._next_pieces()

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        if not self._pieces:
            self._turns.release()
            try:
                self._pieces = self._next_pieces()
            finally:
                self._turns.acquire()
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return piece[:size]

    def _next_pieces(self) -> collections.deque[bytes]:
        """Wait for so many bytes, or for the end."""
        pieces: collections.deque[bytes] = collections.deque()
        left = _AWAITED_BYTES
        while left > 0 and (piece := self._body.read(min(left, _PIECE_BYTES))):
            self._task.check()
            pieces.append(piece)
            left -= len(piece)
        return pieces


class Watched:
    """The bytes of a NAR on their way: counted for the caller, which may cancel at any piece."""

    def __init__(self, archive: nar.ByteSource, task: Task[int]) -> None:
        self._archive = archive
        self._task = task
        self._bytes = 0
        self._unreported = 0

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        self._task.check()
        piece = self._archive.read(size)
        self._bytes += len(piece)
        self._unreported += len(piece)
        if self._unreported >= _REPORTED_BYTES:
            self._task.report(self._bytes)
            self._unreported = 0
        return piece
