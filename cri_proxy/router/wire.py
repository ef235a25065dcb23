"""One socket of a connection on the event loop: what arrives is handed on, what is written leaves.

It does what an asyncio transport does, and less: a write goes to the kernel at once, and only what
the kernel does not take is kept. For a small call, where every microsecond counts twice, that
costs a third of a transport. Whoever owns it is told of bytes, of a buffer that is full and of one
that has room again, and once, never from within a call of the owner's, of the end.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

READ_BYTES: Final = 64 << 10
"""So much is taken at once: however small the frames in it, the loop is soon free again."""
BUFFER_BYTES: Final = 256 << 10
"""A wire that has more than that to write stops those who feed it."""
_ROOM_BYTES: Final = BUFFER_BYTES // 4


class Owner(Protocol):
    """Who is told what happens on a wire, by the number of its side."""

    def lost(self, side: int, wire: Wire, error: OSError | None) -> None:
        """Take note that the wire is closed, by whomever."""

    def paused(self, side: int) -> None:
        """Take note that there is too much to write."""

    def resumed(self, side: int) -> None:
        """Take note that enough has been written."""


class Wire:
    """A connected socket, and what is still to be written to it."""

    __slots__ = (
        "_is_closing",
        "_is_full",
        "_is_reading",
        "_loop",
        "_owner",
        "_received",
        "_recv",
        "_send",
        "_side",
        "_socket",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(
        self, connected: socket.socket, side: int, owner: Owner, received: Callable[[bytes], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._recv, self._send = connected.recv, connected.send
        self._side = side
        self._owner = owner
        self._received = received
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._is_full = False
        self._is_reading = False
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Nothing more is read, and nothing that comes to be written is."""
        return self._is_closing

    def read(self) -> None:
        """Hand on what arrives from now on."""
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def pause(self) -> None:
        """Leave what arrives where it is."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())

    def write(self, data: bytes) -> None:
        """Write, now or as soon as there is room."""
        if self._is_closing:
            return
        sent = 0
        if not self._waiting:
            try:
                sent = self._send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._waiting.append(memoryview(data)[sent:])
        self._waiting_bytes += len(data) - sent
        if self._waiting_bytes > BUFFER_BYTES and not self._is_full:
            self._is_full = True
            self._owner.paused(self._side)

    def close(self) -> None:
        """Write what is still to be written, then end."""
        if not self._is_closing:
            self.pause()
            if self._waiting:
                self._is_closing = True
            else:
                self._lose(None)

    def abort(self) -> None:
        """End now."""
        if self._socket.fileno() >= 0:
            self._lose(None)

    def _readable(self) -> None:
        try:
            data = self._recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._received(data)
        else:
            self._lose(None)

    def _writable(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                piece = waiting[0]
                sent = self._send(piece)
                self._waiting_bytes -= sent
                if sent < len(piece):
                    waiting[0] = piece[sent:]
                    break
                waiting.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(error)
            return
        if not waiting:
            self._loop.remove_writer(self._socket.fileno())
            if self._is_closing:
                self._lose(None)
                return
        if self._is_full and self._waiting_bytes <= _ROOM_BYTES:
            self._is_full = False
            self._owner.resumed(self._side)

    def _lose(self, error: OSError | None) -> None:
        descriptor = self._socket.fileno()
        self._is_closing = True
        if descriptor < 0:
            return
        self.pause()
        if self._waiting:
            self._loop.remove_writer(descriptor)
            self._waiting.clear()
        self._socket.close()
        self._loop.call_soon(self._owner.lost, self._side, self, error)
