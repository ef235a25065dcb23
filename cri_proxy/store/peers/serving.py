"""The HTTP server for other nodes: a binary cache, and the requests of the tracker.

    GET  /nix-cache-info                   as in every binary cache, so that Nix can read it, too:
    GET  /<digest>.narinfo                 the public paths that are present here, with their
    GET  /nar/<hash>-<name>.nar            original signatures; archives are not compressed
    GET  /peers/1/narinfo/<digest>         what a cache said of a path; 404: ask one, and PUT it
    PUT  /peers/1/narinfo/<hash>-<name>    what one said; an empty body: it is not public
    GET  /peers/1/turn/<digest>?size=      a turn, and the peer to fetch from: held until the
                                           connection ends; 202: ask again
    POST /peers/1/failure/<digest>         the peer in the body did not give the path
    POST /peers/1/holdings                 the paths that the caller has: digests, one a line

The first three are for all who can connect, the rest is for peers, which are known by their
addresses; `?by=` says which peer the caller is. HTTP/1.1 with persistent connections, limited in
number for each caller and in total; archives are made in threads, a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from cri_proxy import errors
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar, narinfo
from cri_proxy.store.disk.local import Store
from cri_proxy.store.peers import addresses
from cri_proxy.store.peers.addresses import Addresses
from cri_proxy.store.peers.asking import API, SOURCE_HEADER
from cri_proxy.store.peers.tracker import Tracker, Turn
from cri_proxy.store.signatures import Keyring

HOLD_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 120.0
SEND_SECONDS: Final = 10.0
"""How long a caller may receive nothing of an archive."""

SEND_BYTES_A_SECOND: Final = 200_000
PACKING: Final = 32
PACKING_FOR_STRANGERS: Final = 4
"""Archives made at a time, and how many of these for one caller that is not a peer."""

CONNECTIONS: Final = 8192
CONNECTIONS_EACH: Final = 512
LISTING_SECONDS: Final = 1.0
_PIECE_BYTES: Final = 256 * 1024
_HEAD_BYTES: Final = 16 * 1024
_BODY_BYTES: Final = 256 * 1024
_DIGEST: Final = re.compile("[0-9a-z]{32}")
_CACHE: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 20\n"


@dataclass(frozen=True, slots=True)
class _Request:
    """One request: `target` is its path without the first slash, `caller` its source address."""

    method: str
    target: str
    query: Mapping[str, str]
    body: bytes
    caller: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response; `is_last` closes the connection."""

    status: HTTPStatus
    body: bytes = b""
    is_last: bool = False


_MISSING: Final = _Answer(HTTPStatus.NOT_FOUND)
_DONE: Final = _Answer(HTTPStatus.NO_CONTENT)


class Serving:
    """Serves the public paths of `store` and a tracker; `keyring` verifies narinfos of peers."""

    def __init__(self, store: Store, known: Addresses, keyring: Keyring) -> None:
        self._store = store
        self._addresses = known
        self._keyring = keyring
        self._tracker = Tracker(time.monotonic)
        self._by_digest: dict[str, StorePath] = {}
        self._listing_due = 0.0
        self._known: tuple[str, ...] = ()
        self._hosts: set[str] = set()
        self._callers: dict[str, int] = {}
        self._strangers: dict[str, asyncio.Semaphore] = {}
        self._packing = ThreadPoolExecutor(PACKING, thread_name_prefix="pack")

    async def serve(self, listening: socket.socket) -> None:
        """Serve on a listening socket until cancelled."""
        await asyncio.to_thread(lambda: self._addresses.all)  # later it is known without waiting
        server = await asyncio.start_server(
            self._connected, sock=listening, limit=_HEAD_BYTES, backlog=1024
        )
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = str((writer.get_extra_info("peername") or [""])[0])
        if not caller:  # gone already
            writer.close()
            return
        writer.transport.set_write_buffer_limits(0)  # so that `drain` waits for the last byte
        self._strangers.setdefault(caller, asyncio.Semaphore(PACKING_FOR_STRANGERS))
        count = self._callers[caller] = self._callers.get(caller, 0) + 1
        try:
            if count <= CONNECTIONS_EACH and sum(self._callers.values()) <= CONNECTIONS:
                with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, ValueError):
                    while await self._exchange(reader, writer, caller):
                        pass
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller], self._strangers[caller]
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: str
    ) -> bool:
        """Read and serve a request; return whether another may follow."""
        async with asyncio.timeout(IDLE_SECONDS):
            request = await _read(reader, caller)
        is_reading = request.method in ("GET", "HEAD")
        if is_reading and request.target.startswith("nar/"):
            return await self._send_archive(request, writer)
        if is_reading and request.target.startswith(f"{API}/turn/"):
            return await self._send_turn(request, reader, writer)
        answer = await self._answer_of(request)
        writer.write(_head_of(answer.status, len(answer.body)))
        if request.method != "HEAD":
            writer.write(answer.body)
        await writer.drain()
        return not answer.is_last

    async def _answer_of(self, request: _Request) -> _Answer:
        target = request.target
        match request.method:
            case "GET" | "HEAD" if target == "nix-cache-info":
                return _Answer(HTTPStatus.OK, _CACHE)
            case "GET" | "HEAD" if target.endswith(".narinfo") and "/" not in target:
                return await self._narinfo_of(target.removesuffix(".narinfo"))
            case "GET" | "HEAD" | "PUT" | "POST" if target.startswith(f"{API}/"):
                if self._peer_of(request) is None:
                    return _Answer(HTTPStatus.FORBIDDEN, b"not a peer\n", is_last=True)
                return await self._track(request, target.removeprefix(f"{API}/"))
            case "GET" | "HEAD":
                return _MISSING
            case _:
                return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, is_last=True)

    async def _track(self, request: _Request, target: str) -> _Answer:
        what, _, name = target.partition("/")
        match request.method, what:
            case "GET", "narinfo":
                text = await self._tracker.narinfo(_digest(name))
                return _MISSING if text is None else _Answer(HTTPStatus.OK, text)
            case "PUT", "narinfo":
                return self._learn(name, request.body)
            case "POST", "failure":
                self._tracker.drop(_digest(name), request.body.decode("ascii"))
                return _DONE
            case "POST", "holdings":
                peer = self._peer_of(request)
                if peer:
                    held = [_digest(each) for each in request.body.decode("ascii").split()]
                    self._tracker.hold(held, peer)
                return _DONE
            case _:
                return _MISSING

    def _learn(self, basename: str, text: bytes) -> _Answer:
        """Store what a cache said of a path, if it is signed by a key that is trusted here."""
        try:
            path = storepaths.of_basename(basename)
            if not text:
                self._tracker.ask_yourselves(path.digest)
                return _DONE
            self._keyring.verify(narinfo.parse(text, path))
        except errors.CriProxyError as error:
            return _Answer(HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
        self._tracker.learn(path.digest, text)
        return _DONE

    async def _send_turn(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Give a turn, and hold it until the connection ends; False after that."""
        peer = self._peer_of(request)
        if peer is None:
            writer.write(_head_of(HTTPStatus.FORBIDDEN, 0))
            return False
        digest = _digest(request.target.rpartition("/")[2])
        size = min(int(request.query.get("size", "0")), 2**40)
        gone = asyncio.ensure_future(reader.read(1))
        turn: Turn | None = None
        try:
            asking = asyncio.ensure_future(
                self._tracker.turn(digest, size, asker=peer or None, within=HOLD_SECONDS)
            )
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                return False
            turn = asking.result()
            if turn is None:
                writer.write(_head_of(HTTPStatus.ACCEPTED, 0))
                return not gone.done()
            source = f"{SOURCE_HEADER}: {turn.source}\r\n" if turn.source else ""
            writer.write(_head_of(HTTPStatus.OK, 1, source))  # the one byte never comes
            await writer.drain()
            async with asyncio.timeout(max(0.0, turn.ends - time.monotonic())):
                await gone
            return False
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone
            if turn is not None:
                self._tracker.release(digest, turn)

    async def _narinfo_of(self, digest: str) -> _Answer:
        path = await self._path_of(digest)
        record = None if path is None else self._public_record(path)
        if record is None:
            return _MISSING
        shown = replace(
            record,
            url=f"nar/{record.path.basename}.nar",
            compression="none",
            file_hash=None,
            file_size=None,
        )
        return _Answer(HTTPStatus.OK, narinfo.text_of(shown).encode())

    async def _send_archive(self, request: _Request, writer: asyncio.StreamWriter) -> bool:
        """Send the archive of a public path; return whether it was sent whole."""
        name = request.target.removeprefix("nar/").removesuffix(".nar")
        try:
            record = self._public_record(storepaths.of_basename(name))
        except errors.RequestInvalid:
            record = None
        if record is None:
            writer.write(_head_of(HTTPStatus.NOT_FOUND, 0))
            return True
        if request.method == "HEAD":
            writer.write(_head_of(HTTPStatus.OK, record.nar_size))
            return True
        is_peer = self._peer_of(request) is not None
        async with contextlib.nullcontext() if is_peer else self._strangers[request.caller]:
            writer.write(_head_of(HTTPStatus.OK, record.nar_size))
            await writer.drain()
            sending = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
            await asyncio.get_running_loop().run_in_executor(
                self._packing, _pack, self._store, record, sending
            )
        return True

    def _public_record(self, path: StorePath) -> narinfo.NarInfo | None:
        return self._store.peek(path) if self._store.is_public(path) else None

    async def _path_of(self, digest: str) -> StorePath | None:
        """Return the present path of a digest; the store is listed now and then."""
        if digest not in self._by_digest and time.monotonic() >= self._listing_due:
            self._listing_due = time.monotonic() + LISTING_SECONDS
            listed = await asyncio.to_thread(self._store.public_paths)
            self._by_digest = {each.digest: each for each in listed}
        return self._by_digest.get(digest)

    def _peer_of(self, request: _Request) -> str | None:
        """Return the calling peer, empty for one without an address of its own, None for others."""
        known = self._addresses.all
        if known is not self._known:
            self._known = known
            self._hosts = {addresses.split(each)[0] for each in known}
        caller = addresses.split(addresses.joined(request.caller, 0))[0]
        if caller not in self._hosts:
            return None
        by = request.query.get("by", "")
        return by if by in known and addresses.split(by)[0] == caller else ""


def _pack(store: Store, record: narinfo.NarInfo, sending: socket.socket) -> None:
    """Write a path's archive to a socket; a failure is an OSError, and ends the connection.

    Raises it as well when the other side takes bytes too slowly: threads are few.
    """
    waiting: list[bytes] = []
    size = 0
    latest = time.monotonic() + SEND_SECONDS + record.nar_size / SEND_BYTES_A_SECOND

    def send(piece: bytes) -> None:
        nonlocal size
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            flush()

    def flush() -> None:
        nonlocal size
        if time.monotonic() > latest:
            raise TimeoutError("takes bytes too slowly")
        sending.sendall(b"".join(waiting))
        waiting.clear()
        size = 0

    with sending:
        sending.settimeout(SEND_SECONDS)
        try:
            nar.write(store.locate(record.path), send)
        except errors.ContentDamaged as error:
            raise OSError(str(error)) from error
        flush()


async def _read(reader: asyncio.StreamReader, caller: str) -> _Request:
    """Read a request; raise ValueError for one that is malformed or too large."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _BODY_BYTES or "transfer-encoding" in headers:
        raise ValueError("too large")
    body = await reader.readexactly(length)
    path, _, query = target.partition("?")
    return _Request(method, path.removeprefix("/"), dict(parse_qsl(query)), body, caller)


def _digest(text: str) -> str:
    """Return the digest of a store path; raise ValueError for other text."""
    if not _DIGEST.fullmatch(text):
        raise ValueError("not a digest")
    return text


def _head_of(status: HTTPStatus, length: int, more: str = "") -> bytes:
    size = "" if status is HTTPStatus.NO_CONTENT else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{size}{more}\r\n".encode()
