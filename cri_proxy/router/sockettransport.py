"""A socket on the event loop: passes on what arrives, buffers what cannot be written yet.

It does what an asyncio transport does, and less: a write goes to the kernel at once, and only what
the kernel does not accept is buffered. For a small call, which passes two sockets each way, that
costs a third of an asyncio transport. The owner is notified of received bytes, of a full buffer, of
one that has room again, and once of the end, never from within a call of the owner.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

READ_BYTES: Final = 64 << 10
"""At most so much is read at once, so that the loop is soon free again."""
BUFFER_BYTES: Final = 256 << 10
"""Above that the buffer is full."""
_ROOM_BYTES: Final = BUFFER_BYTES // 4


class SocketTransport:
    """A connected socket and its write buffer."""

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "_is_full",
        "_is_reading",
        "_loop",
        "_on_full",
        "_on_lost",
        "_on_room",
        "_received",
        "_recv",
        "_send",
        "_socket",
        "is_closing",
    )

    def __init__(
        self,
        connected: socket.socket,
        received: Callable[[bytes], None],
        *,
        on_full: Callable[[], None],
        on_room: Callable[[], None],
        on_lost: Callable[[SocketTransport, OSError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._recv, self._send = connected.recv, connected.send
        self._received = received
        self._on_full = on_full
        self._on_room = on_room
        self._on_lost = on_lost
        self._buffer: deque[memoryview] = deque()
        self._buffered_bytes = 0
        self._is_full = False
        self._is_reading = False
        self.is_closing = False
        """Nothing more is read, and further writes are ignored."""

    def read(self) -> None:
        """Start or resume reading."""
        if not self._is_reading and not self.is_closing:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def pause(self) -> None:
        """Stop reading; what arrives stays in the kernel."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())

    def write(self, data: bytes) -> None:
        """Write, now or as soon as there is room."""
        if self.is_closing:
            return
        sent = 0
        if not self._buffer:
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
        self._buffer.append(memoryview(data)[sent:])
        self._buffered_bytes += len(data) - sent
        if self._buffered_bytes > BUFFER_BYTES and not self._is_full:
            self._is_full = True
            self._on_full()

    def close(self) -> None:
        """Write what is buffered, then close the socket."""
        if not self.is_closing:
            self.pause()
            if self._buffer:
                self.is_closing = True
            else:
                self._lose(None)

    def abort(self) -> None:
        """Close the socket now."""
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
        buffer = self._buffer
        try:
            while buffer:
                piece = buffer[0]
                sent = self._send(piece)
                self._buffered_bytes -= sent
                if sent < len(piece):
                    buffer[0] = piece[sent:]
                    break
                buffer.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(error)
            return
        if not buffer:
            self._loop.remove_writer(self._socket.fileno())
            if self.is_closing:
                self._lose(None)
                return
        if self._is_full and self._buffered_bytes <= _ROOM_BYTES:
            self._is_full = False
            self._on_room()

    def _lose(self, error: OSError | None) -> None:
        descriptor = self._socket.fileno()
        self.is_closing = True
        if descriptor < 0:
            return
        self.pause()
        if self._buffer:
            self._loop.remove_writer(descriptor)
            self._buffer.clear()
        self._socket.close()
        self._loop.call_soon(self._on_lost, self, error)
