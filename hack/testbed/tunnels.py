"""An HTTP proxy that supports only tunnels (CONNECT), as companies use it.

`asked` has the requested destinations. `authorization`, if set, is the value of Proxy-Authorization
without which it answers 407; `refusal`, if set, is the status that it answers instead of a tunnel.
"""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Final, Self

_PIECE_BYTES: Final = 64 * 1024


class TunnelProxy:
    """Runs while the context lasts."""

    def __init__(self, *, authorization: str | None = None, refusal: str | None = None) -> None:
        self.authorization = authorization
        self.refusal = refusal
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def place(self) -> str:
        """Its address as host:port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS with clients from now on; both are PEM files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.close_tunnels()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 128
    proxy: TunnelProxy

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.open: set[socket.socket] = set()

    def close_tunnels(self) -> None:
        """Close all open tunnels."""
        for each in tuple(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer one CONNECT request, and forward the tunnel."""
        self.server.open.add(self.request)
        try:
            with contextlib.suppress(OSError):
                self._answer()
        finally:
            self.server.open.discard(self.request)

    def _answer(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(_PIECE_BYTES)
            if not piece:
                return
            head += piece
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        method, place, _ = first.split(" ")
        proxy = self.server.proxy
        proxy.asked.append(place)
        wanted = proxy.authorization
        if method != "CONNECT":
            self._say("405 Method Not Allowed")
        elif wanted is not None and fields.get("proxy-authorization") != wanted.lower():
            self._say("407 Proxy Authentication Required")
        elif proxy.refusal is not None:
            self._say(proxy.refusal)
        else:
            host, _, port = place.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), 10) as far:
                self._say("200 Connection established")
                self._carry(far)

    def _say(self, status: str) -> None:
        self.request.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

    def _carry(self, far: socket.socket) -> None:
        """Forward bytes both ways until one side closes."""
        to = {self.request: far, far: self.request}
        while True:
            for source in select.select(list(to), [], [])[0]:
                more = True
                while more:
                    piece = source.recv(_PIECE_BYTES)
                    if not piece:
                        return
                    to[source].sendall(piece)
                    more = isinstance(source, ssl.SSLSocket) and source.pending() > 0
