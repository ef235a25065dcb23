"""An HTTP server of one directory, with faults on demand.

Serves GET and HEAD over HTTP/1.1 with connections kept open, as a binary cache does. What tests
need to see (which requests came, how many at once) and to cause (delay, refusal, a body that is
cut, altered or never comes, a server that is gone) are attributes and methods. Also a program, for
benchmarks that must not share the interpreter with what they measure:

    python -m hack.testbed.file_server DIRECTORY [--port N] [--delay SECONDS]
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import socket
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final, Self

from hack.testbed import ports

_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status and no file."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Truncation:
    """Promise the whole file, send `size` bytes, close the connection."""

    size: int


@dataclass(frozen=True, slots=True)
class Corruption:
    """Send the file with the byte at `offset` inverted."""

    offset: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Send the headers and `size` bytes, the rest once `released` is set."""

    size: int = 0
    released: threading.Event = field(default_factory=threading.Event)


Fault = Status | Truncation | Corruption | Hang


@dataclass(frozen=True, slots=True)
class Request:
    """One request that came; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class FileServer:
    """Serves `directory` at `address` from `start` (or entering) to `stop` (or leaving).

    `delay_seconds` is waited before every answer. `authorization`, if set, is the value of the
    header without which every answer is 401. `peak` is the largest number of requests that were
    being answered at once; `changed` is notified of each that comes. After `stop` connections are
    refused, and `start` serves on the same port again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        delay_seconds: float = 0.0,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.address = address
        self.delay_seconds = delay_seconds
        self.authorization: str | None = None
        self.port: Final = port or ports.kept_for(self)
        self.peak = 0
        self.changed = threading.Condition()
        self._requests: list[Request] = []
        self._faults: list[tuple[str, Fault, int | None]] = []
        self._in_flight = 0
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the directory, without a slash at its end."""
        return f"http://{self.address}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        with self.changed:
            return list(self._requests)

    def count(self, pattern: str = "*") -> int:
        """Return how many requests came for paths like `pattern` (`/nar/*`)."""
        return sum(fnmatch.fnmatchcase(request.path, pattern) for request in self.requests)

    def forget(self) -> None:
        """Begin counting anew."""
        with self.changed:
            self._requests.clear()
            self.peak = self._in_flight

    def fail(self, pattern: str, fault: Fault, *, times: int | None = None) -> None:
        """Answer requests for paths like `pattern` with `fault`: the next `times`, or all."""
        with self.changed:
            self._faults.append((pattern, fault, times))

    def heal(self) -> None:
        """End all faults; what hangs is released."""
        with self.changed:
            faults, self._faults = self._faults, []
        for _, fault, _ in faults:
            if isinstance(fault, Hang):
                fault.released.set()

    def start(self) -> None:
        """Serve, from now on."""
        self._stopping.clear()
        self._server = _Server(self, self.port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="file-server"
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and break those that are open."""
        if self._server is None or self._thread is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close()
        self._server = self._thread = None

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now until `stop`; both are PEM files."""
        assert self._server is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def answer(self, handler: _Handler) -> None:
        """Answer one request; called by its connection's thread."""
        request = Request(
            handler.command,
            handler.path,
            {name.lower(): value for name, value in handler.headers.items()},
        )
        with self.changed:
            self._requests.append(request)
            fault = self._fault_for(request.path)
            self._in_flight += 1
            self.peak = max(self.peak, self._in_flight)
            self.changed.notify_all()
        try:
            if self.delay_seconds and self._stopping.wait(self.delay_seconds):
                raise ConnectionAbortedError("the server stops")
            if (refusal := self.refusal_of(request)) is not None:
                handler.refuse(refusal.code, refusal.body, refusal.headers)
            elif isinstance(fault, Status):
                handler.refuse(fault.code, fault.body, fault.headers)
            else:
                self._send(handler, fault)
        finally:
            with self.changed:
                self._in_flight -= 1

    def refusal_of(self, request: Request) -> Status | None:
        """Return what to answer a request that may not have the file, whichever it is."""
        if self.authorization in (None, request.headers.get("authorization")):
            return None
        return Status(HTTPStatus.UNAUTHORIZED)

    def file_of(self, path: str) -> Path:
        """Return where the file of a path is, as it is written in a request but decoded."""
        return self.directory / path.lstrip("/")

    def _fault_for(self, path: str) -> Fault | None:
        """Return the first fault that is meant for `path`, and count it off."""
        for index, (pattern, fault, times) in enumerate(self._faults):
            if fnmatch.fnmatchcase(path, pattern):
                if times == 1:
                    del self._faults[index]
                elif times is not None:
                    self._faults[index] = (pattern, fault, times - 1)
                return fault
        return None

    def _send(self, handler: _Handler, fault: Truncation | Corruption | Hang | None) -> None:
        """Send the file that was asked for, as `fault` has it."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(handler.path).path)
        file = self.file_of(path)
        if ".." in file.parts or not file.is_file():
            handler.refuse(HTTPStatus.NOT_FOUND)
            return
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            handler.begin(size)
            if handler.command == "HEAD":
                return
            match fault:
                case None:
                    shutil.copyfileobj(source, handler.wfile, _PIECE_BYTES)
                case Truncation(kept):
                    handler.wfile.write(source.read(kept))
                    handler.close_connection = True
                case Corruption(offset):
                    data = bytearray(source.read())
                    data[offset] ^= 0xFF
                    handler.wfile.write(data)
                case Hang(sent, released):
                    self._send_late(source, handler, sent, released)

    def _send_late(
        self, source: IO[bytes], handler: _Handler, sent: int, released: threading.Event
    ) -> None:
        """Send the rest of a file when it is released; give up when the server stops."""
        handler.wfile.write(source.read(sent))
        handler.wfile.flush()
        while not released.wait(0.05):
            if self._stopping.is_set():
                raise ConnectionAbortedError("the server stops")
        shutil.copyfileobj(source, handler.wfile, _PIECE_BYTES)


class _Server(ThreadingHTTPServer):
    """The listening socket and the connections it has accepted."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, owner: FileServer, port: int) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__((owner.address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError)):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Close the listening socket, then every connection."""
        self.server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        self.server.owner.answer(self)

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def begin(self, size: int) -> None:
        """Send the headers of a file of `size` bytes."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def refuse(
        self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a status with a short body."""
        body = b"" if self.command == "HEAD" else body or f"{code}\n".encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: `requests` is the log."""


def main() -> None:
    """Serve a directory until the process ends; the first line of output is the URL."""
    parser = argparse.ArgumentParser(description="Serve a binary cache over HTTP.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS")
    arguments = parser.parse_args()
    server = FileServer(arguments.directory, delay_seconds=arguments.delay, port=arguments.port)
    with server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
