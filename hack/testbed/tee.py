"""A unix socket that forwards every byte to another one, and records the bytes sent there.

Between a proxy and a real runtime, it shows what the proxy really sent, without knowledge of the
protocol: small gRPC messages are sent in one piece, so their bytes can be searched for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Final, Self

_PIECE: Final = 65536


class Tee:
    """Listens at `place` for the socket `target`; a context manager."""

    def __init__(self, place: Path, target: Path) -> None:
        self.place: Final = place
        self._target: Final = target
        self._sent: Final = bytearray()
        self._lock: Final = threading.Lock()
        self._listener: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: Final[list[socket.socket]] = [self._listener]
        self._threads: Final[list[threading.Thread]] = []

    def __enter__(self) -> Self:
        self._listener.bind(str(self.place))
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            connections = list(self._open)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in connections:
            each.close()

    def sent(self) -> bytes:
        """Return all bytes sent to the target so far, of all connections together."""
        with self._lock:
            return bytes(self._sent)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(str(self._target))
            with self._lock:
                self._open.extend((near, far))
            self._start(self._pump, near, far, True)
            self._start(self._pump, far, near, False)

    def _pump(self, source: socket.socket, sink: socket.socket, is_kept: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if is_kept:
                    with self._lock:
                        self._sent.extend(piece)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def _start(self, work: object, *arguments: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
