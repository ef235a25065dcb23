"""A web server with faults on demand, and one that serves a directory as a binary cache does.

A subclass of `Server` answers requests; `FileServer` does so with files. The server records every
request, speaks HTTP/1.1 with persistent connections, and TLS with a certificate. Its port stays
reserved from its creation on, so that it can be stopped and started at the same address.

    server.fail("/nar/*", Truncation(1000), times=2)
    with server.hold("POST *") as held:
        held.wait()
    assert server.count("*.narinfo") == 4

A pattern is a shell glob for the path with its query, or for `METHOD path`. Also a program, for
benchmarks that must not share an interpreter with what they measure:

    python -m hack.testbed.web DIRECTORY [--port N] [--delay SECONDS]
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import io
import os
import shutil
import socket
import ssl
import struct
import sys
import threading
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final, Self

from hack.testbed import ports

WAIT_SECONDS: Final = 60.0
_PIECE_BYTES: Final = 256 * 1024
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """A request as received; header names are in lower case, `port` is the client's."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    port: int = 0

    @property
    def user(self) -> str | None:
        """The user of HTTP Basic authentication."""
        return None if self._basic is None else self._basic[0]

    @property
    def password(self) -> str | None:
        """The password of HTTP Basic authentication."""
        return None if self._basic is None else self._basic[1]

    @property
    def bearer(self) -> str | None:
        """The bearer token."""
        return self._credentials("bearer")

    @property
    def _basic(self) -> tuple[str, str] | None:
        encoded = self._credentials("basic")
        if encoded is None:
            return None
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user, password

    def _credentials(self, wanted: str) -> str | None:
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value if scheme.lower() == wanted else None


@dataclass(frozen=True, slots=True)
class Status:
    """An answer; as a fault, it replaces the server's own. Without a body, the code is the body."""

    code: int
    body: bytes | Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Truncation:
    """Send the first `size` bytes and close the connection.

    The header promises the whole body, unless `is_silent`: then it promises what is sent.
    """

    size: int
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class Corruption:
    """Send the body with the byte at `offset` inverted."""

    offset: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Send the headers and `size` bytes, and the rest once `released` is set."""

    size: int = 0
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Drip:
    """Promise a long body and send a byte of it now and then, until `released` is set."""

    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection instead of answering."""


Fault = Status | Truncation | Corruption | Hang | Drip | Reset
"""Truncation, Corruption and Hang change answers with status 200 and leave all others alone."""


@dataclass(slots=True)
class _Queued:
    pattern: str
    fault: Fault
    times: int | None


class Hold:
    """Requests that wait until they are released."""

    def __init__(self, pattern: str) -> None:
        self.pattern: Final = pattern
        self.released: Final = threading.Event()
        self._arrived: Final = threading.Semaphore(0)

    def wait(self) -> None:
        """Return when a request has arrived; fail if none does."""
        assert self._arrived.acquire(timeout=WAIT_SECONDS), "no request arrived"

    def arrive(self) -> None:
        """Count a request that waits."""
        self._arrived.release()


class Server(ABC):
    """A web server, from `start` (or entering) to `stop` (or leaving).

    `delay_seconds` pass before every answer. `peak` is the largest number of requests in progress
    at once; `changed` is notified of each request. `stop` aborts what is in progress.
    """

    def __init__(
        self,
        *,
        certificate: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        delay_seconds: float = 0.0,
    ) -> None:
        """Reserve the port. `certificate` (PEM files of chain and key) makes it an HTTPS server."""
        self.address: Final = address
        self.port: Final = port or ports.kept_for(self)
        self.delay_seconds = delay_seconds
        self.peak = 0
        self.changed: Final = threading.Condition()
        self._certificate = certificate
        self._requests: list[Request] = []
        self._faults: list[_Queued] = []
        self._holds: list[Hold] = []
        self._in_progress = 0
        self._stopping = threading.Event()
        self._listener: _Listener | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def answer(self, request: Request) -> Status:
        """Return the answer to a request that no fault replaces."""

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        return f"{'https' if self._certificate else 'http'}://{self.address}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order of arrival."""
        with self.changed:
            return list(self._requests)

    def count(self, pattern: str = "*") -> int:
        """Return how many requests match `pattern`."""
        return sum(_matches(request, pattern) for request in self.requests)

    def forget(self) -> None:
        """Forget the requests so far."""
        with self.changed:
            self._requests.clear()
            self.peak = self._in_progress

    def fail(self, pattern: str, fault: Fault, *, times: int | None = None) -> None:
        """Apply `fault` to requests that match `pattern`: to the next `times`, or to all.

        The first fault in the queue that matches is applied.
        """
        with self.changed:
            self._faults.append(_Queued(pattern, fault, times))

    def heal(self) -> None:
        """End all faults and holds, and release the requests that wait for it."""
        with self.changed:
            faults, self._faults = self._faults, []
            holds, self._holds = self._holds, []
        for each in [*holds, *(queued.fault for queued in faults)]:
            if isinstance(each, Hold | Hang | Drip):
                each.released.set()

    @contextmanager
    def hold(self, pattern: str = "*") -> Iterator[Hold]:
        """Keep requests waiting while the context lasts."""
        made = Hold(pattern)
        with self.changed:
            self._holds.append(made)
        try:
            yield made
        finally:
            made.released.set()
            with self.changed:
                self._holds = [each for each in self._holds if each is not made]

    def start(self) -> None:
        """Serve."""
        assert self._listener is None
        self._stopping.clear()
        self._listener = _Listener(self)
        if self._certificate is not None:
            self._listener.speak_tls(*self._certificate)
        threading.Thread(
            target=self._listener.serve_forever,
            kwargs={"poll_interval": _POLL_SECONDS},
            name=type(self).__name__,
            daemon=True,
        ).start()

    def stop(self) -> None:
        """Refuse connections, and break the open ones."""
        if self._listener is not None:
            self._stopping.set()
            self._listener.shutdown()
            self._listener.close()
            self._listener = None

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        self._certificate = (certificate, key)
        if self._listener is not None:
            self._listener.speak_tls(certificate, key)

    def handle(self, handler: _Handler) -> None:
        """Answer one request; called by the thread of its connection."""
        request = handler.request_received()
        with self.changed:
            self._requests.append(request)
            self._in_progress += 1
            self.peak = max(self.peak, self._in_progress)
            holds = [each for each in self._holds if _matches(request, each.pattern)]
            self.changed.notify_all()
        try:
            for hold in holds:
                hold.arrive()
                self._await(hold.released)
            fault = self._fault_for(request)
            if self.delay_seconds and self._stopping.wait(self.delay_seconds):
                raise ConnectionAbortedError("the server stops")
            match fault:
                case Reset():
                    handler.reset()
                case Drip(released):
                    handler.begin(Status(HTTPStatus.OK), 1_000_000)
                    self._drip(handler, released)
                case Status():
                    self._send(handler, fault, None)
                case _:
                    self._send(handler, self.answer(request), fault)
        finally:
            with self.changed:
                self._in_progress -= 1

    def _fault_for(self, request: Request) -> Fault | None:
        """Return the first fault for a request, and count it off."""
        with self.changed:
            for queued in self._faults:
                if _matches(request, queued.pattern):
                    if queued.times is not None:
                        queued.times -= 1
                        if not queued.times:
                            self._faults.remove(queued)
                    return queued.fault
        return None

    def _send(
        self, handler: _Handler, answer: Status, fault: Truncation | Corruption | Hang | None
    ) -> None:
        body = f"{answer.code}\n".encode() if answer.body is None else answer.body
        with io.BytesIO(body) if isinstance(body, bytes) else body.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            if answer.code != HTTPStatus.OK:
                fault = None
            if isinstance(fault, Truncation) and fault.is_silent:
                size = min(size, fault.size)
            handler.begin(answer, size)
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
                    self._send_late(handler, source, sent, released)

    def _send_late(
        self, handler: _Handler, source: IO[bytes], sent: int, released: threading.Event
    ) -> None:
        handler.wfile.write(source.read(sent))
        handler.wfile.flush()
        self._await(released)
        shutil.copyfileobj(source, handler.wfile, _PIECE_BYTES)

    def _drip(self, handler: _Handler, released: threading.Event) -> None:
        while not released.wait(2 * _POLL_SECONDS) and not self._stopping.is_set():
            handler.wfile.write(b"0")
            handler.wfile.flush()
        handler.close_connection = True

    def _await(self, event: threading.Event) -> None:
        """Wait for an event; abort the request when the server stops."""
        while not event.wait(_POLL_SECONDS):
            if self._stopping.is_set():
                raise ConnectionAbortedError("the server stops")


class FileServer(Server):
    """Serves `directory`, to everyone or to requests with the `authorization` header given."""

    def __init__(self, directory: Path, **options: Any) -> None:
        """Serve nothing yet; the options are those of `Server`."""
        super().__init__(**options)
        self.directory = directory
        self.authorization: str | None = None

    def answer(self, request: Request) -> Status:
        """Return the file, or why it is not given."""
        if (refusal := self.refusal_of(request)) is not None:
            return refusal
        file = self.file_of(urllib.parse.unquote(urllib.parse.urlsplit(request.path).path))
        if ".." in file.parts or not file.is_file():
            return Status(HTTPStatus.NOT_FOUND)
        return Status(HTTPStatus.OK, file, {"Content-Type": "application/octet-stream"})

    def refusal_of(self, request: Request) -> Status | None:
        """Return the answer to a request that may not read files; None if it may."""
        if self.authorization in (None, request.headers.get("authorization")):
            return None
        return Status(HTTPStatus.UNAUTHORIZED)

    def file_of(self, path: str) -> Path:
        """Return the file for the decoded path of a URL."""
        return self.directory / path.lstrip("/")


def _matches(request: Request, pattern: str) -> bool:
    return fnmatch.fnmatchcase(request.path, pattern) or fnmatch.fnmatchcase(
        f"{request.method} {request.path}", pattern
    )


class _Listener(ThreadingHTTPServer):
    """The listening socket and the connections accepted on it."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 512

    def __init__(self, owner: Server) -> None:
        self.owner: Final = owner
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((owner.address, owner.port), _Handler)

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Speak TLS on connections accepted from now on; the handshake is up to their threads."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors of the server itself; clients may disconnect as they like."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Break the connections, close the listening socket, and wait for the threads."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener

    def do_GET(self) -> None:
        self.server.owner.handle(self)

    do_HEAD = do_POST = do_GET  # noqa: N815 - the names are the standard library's

    def request_received(self) -> Request:
        """Return the request, with its body."""
        return Request(
            self.command,
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(int(self.headers.get("Content-Length", "0"))),
            self.client_address[1],
        )

    def begin(self, answer: Status, size: int) -> None:
        """Send the status line and the headers of a body of `size` bytes."""
        headers = {"Content-Type": "text/plain", "Content-Length": str(size), **answer.headers}
        if answer.code == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("WWW-Authenticate", 'Basic realm="testbed"')
        if "Date" in headers:  # which send_response would add
            self.send_response_only(answer.code)
        else:
            self.send_response(answer.code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """Close so that the client sees a reset rather than the end of the stream."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: `Server.requests` is the log."""


def main() -> None:
    """Serve a directory until the process is stopped; the first line of output is the URL."""
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
