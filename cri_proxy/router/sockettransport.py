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
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

READ_BYTES: Final = 64 << 10
"""At most so much is read at once, so that the loop is soon free again."""
BUFFER_BYTES: Final = 256 << 10
"""Above that the buffer is full."""
_ROOM_BYTES: Final = BUFFER_BYTES // 4


@dataclass(slots=True, eq=False)
class SocketTransport:
    """A connected socket and its write buffer."""

    _socket: socket.socket
    _received: Callable[[bytes], None]
    _: KW_ONLY
    on_full: Callable[[], None]
    on_room: Callable[[], None]
    on_lost: Callable[[SocketTransport, OSError | None], None]
    is_closing: bool = False
    """Nothing more is read, and further writes are ignored."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _buffer: deque[memoryview] = field(default_factory=deque)
    _buffered_bytes: int = 0
    _is_full: bool = False
    _is_reading: bool = False

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
                sent = self._socket.send(data)
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
            self.on_full()

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
            data = self._socket.recv(READ_BYTES)
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
                sent = self._socket.send(piece)
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
            self.on_room()

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
        self._loop.call_soon(self.on_lost, self, error)
