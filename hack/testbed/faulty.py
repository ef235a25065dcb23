"""An HTTP server that can misbehave on demand: what a real one does to its clients, at will.

A subclass answers requests; here they are received, counted, held back and spoilt. Faults are
queued (`server.fail(Status(503), times=2)`), and each request that a fault is for takes one time of
the first; `calm` ends them all. Every request is kept in `requests`. `stop` breaks connections and
frees the port, `start` takes the same one again.
"""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from hack.testbed import ports

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """A request as it came; `password` is that of HTTP Basic, `port` the client's."""

    method: str
    path: str
    protocol: str
    agent: str
    user: str | None = None
    password: str | None = None
    bearer: str | None = None
    content_type: str = ""
    port: int = 0
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Status:
    """Answer with this status, and these headers."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Say:
    """Answer with this body."""

    body: bytes
    content_type: str = "text/html"


@dataclass(frozen=True)
class Cut:
    """Answer with only the first bytes; openly, or as if that were all."""

    keep: int
    openly: bool = True


@dataclass(frozen=True)
class Break:
    """Reset the connection instead of answering."""


@dataclass(frozen=True)
class Drip:
    """Promise a long answer and send a byte of it now and then, until the hub is calm."""


Fault = Status | Say | Cut | Break | Drip


@dataclass
class _Queued:
    fault: Fault
    times: int | None
    only: str


class Hold:
    """Requests that wait until they are released."""

    def __init__(self, only: str) -> None:
        self.only = only
        self._arrived = threading.Semaphore(0)
        self._released = threading.Event()

    def wait(self) -> None:
        """Return when a request has arrived; fail when none does."""
        assert self._arrived.acquire(timeout=WAIT_SECONDS), "no request arrived"

    def release(self) -> None:
        """Let the waiting requests, and all later ones, go on."""
        self._released.set()

    def pass_through(self) -> None:
        """Stand for a request in the hold."""
        self._arrived.release()
        self._released.wait(WAIT_SECONDS)


Answer = tuple[int, str, bytes]
"""Status, content type and body."""


class FaultyServer:
    """An HTTP server; a context manager that serves while it is entered."""

    def __init__(
        self, *, certificate: tuple[Path, Path] | None = None, address: str = "127.0.0.1"
    ) -> None:
        """Make the server; `certificate` (PEM chain and key) makes it speak HTTPS."""
        self._address = address
        self.requests: list[Request] = []
        self._certificate = certificate
        self._lock = threading.Lock()
        self._faults: list[_Queued] = []
        self._holds: list[Hold] = []
        self._calm = threading.Event()
        self._listener: _Listener | None = None
        self._port: Final = ports.kept_for(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Request) -> Answer:
        """Return what a request deserves when no fault is for it."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The server's base; its port stays the same across stop and start."""
        return f"{'https' if self._certificate else 'http'}://{self._address}:{self._port}"

    def start(self) -> None:
        """Serve, each time on the same port."""
        assert self._listener is None
        self._listener = _Listener((self._address, self._port), _Handler)
        self._listener.owner = self
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            self._listener.socket = context.wrap_socket(
                self._listener.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and break those that there are."""
        if self._listener is not None:
            self.calm()
            self._listener.shutdown()
            self._listener.break_connections()
            self._listener.server_close()
            self._listener = None

    def fail(self, fault: Fault, *, times: int | None = None, only: str = "") -> None:
        """Queue a fault for requests whose `METHOD path` contains `only`."""
        self._calm.clear()
        with self._lock:
            self._faults.append(_Queued(fault, times, only))

    def calm(self) -> None:
        """End all faults and release all holds."""
        with self._lock:
            self._faults.clear()
            holds, self._holds = self._holds, []
        self._calm.set()
        for each in holds:
            each.release()

    @contextmanager
    def hold(self, only: str = "") -> Iterator[Hold]:
        """Keep requests waiting while the context lasts."""
        made = Hold(only)
        with self._lock:
            self._holds.append(made)
        try:
            yield made
        finally:
            made.release()
            with self._lock:
                self._holds = [each for each in self._holds if each is not made]

    def count(self, only: str = "") -> int:
        """Return how many requests came whose `METHOD path` contains `only`."""
        return sum(only in f"{each.method} {each.path}" for each in list(self.requests))

    def note(self, request: Request) -> Fault | None:
        """Record a request, let it wait if it shall, and return the fault that is for it."""
        line = f"{request.method} {request.path}"
        with self._lock:
            self.requests.append(request)
            held = [each for each in self._holds if each.only in line]
        for hold in held:
            hold.pass_through()
        with self._lock:
            for queued in self._faults:
                if queued.only in line:
                    if queued.times is not None:
                        queued.times -= 1
                        if not queued.times:
                            self._faults.remove(queued)
                    return queued.fault
        return None

    def drip(self, connection: socket.socket) -> None:
        """Send a byte now and then until the hub is calm or nobody listens."""
        while not self._calm.wait(0.05):
            connection.sendall(b"0")


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    request_queue_size = 128
    owner: FaultyServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        with self._guard:
            connections = list(self._connections)
        for each in connections:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of faults of the server itself; clients may go away as they like."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        owner = self.server.owner
        request = self._request()
        fault = owner.note(request)
        match fault:
            case Status(code, headers):
                self._send(code, "text/plain", b"a fault was asked for", headers)
            case Say(body, content_type):
                self._send(200, content_type, body)
            case Break():
                self._reset()
            case Drip():
                self._begin(200, "application/x-git-upload-pack-advertisement", 1_000_000)
                owner.drip(self.connection)
                self.close_connection = True
            case Cut(keep, openly):
                status, kind, body = owner.answer(request)
                self._begin(status, kind, len(body) if openly else min(keep, len(body)))
                self.wfile.write(body[:keep])
                self.close_connection = True
            case None:
                self._send(*owner.answer(request))

    def _request(self) -> Request:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        user = password = bearer = None
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(value).decode().partition(":")
        elif scheme.lower() == "bearer":
            bearer = value
        return Request(
            method=self.command,
            path=self.path,
            protocol=self.headers.get("Git-Protocol", ""),
            agent=self.headers.get("User-Agent", ""),
            port=self.client_address[1],
            content_type=self.headers.get("Content-Type", ""),
            user=user,
            password=password,
            bearer=bearer,
            body=self.rfile.read(int(self.headers.get("Content-Length", "0"))),
        )

    def _begin(
        self, status: int, content_type: str, length: int, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="testbed"')
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(
        self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._begin(status, content_type, len(body), headers)
        self.wfile.write(body)

    def _reset(self) -> None:
        """Close so that the other side sees a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
