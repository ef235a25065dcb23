"""A web server with one answer, for tests of what asks over HTTP and TLS.

    with Site() as site:
        site.status = 503
        ...
        assert site.asked == [("/nix-cache-info", None)]

It says that it is a binary cache until it is told to say something else.
"""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from pathlib import Path
from typing import Final, Self

CACHE: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"


class Site:
    """A server on 127.0.0.1 while the context lasts; its clock is off by `skew` seconds.

    `asked` are the paths that were asked for and the Authorization headers that came with them.
    """

    def __init__(self) -> None:
        self.status = 200
        self.body = CACHE
        self.skew = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self._scheme = "http"
        self._server = _Server(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on; both are PEM files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https"


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, site: Site) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that refuse a certificate are wanted here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        site = self.server.site
        site.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(site.status)
        self.send_header("Content-Length", str(len(site.body)))
        self.end_headers()
        self.wfile.write(site.body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.site.skew)

    def log_message(self, *_: object) -> None:
        pass
