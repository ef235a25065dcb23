"""One binary cache: a directory, or a site behind https or http.

A cache is a set of small and large files: nix-cache-info, a narinfo for each path it has, and the
NARs those lead to. `lookup` gives an `Offer`: the narinfo, and the way to its NAR. What a cache
does not have is NotFound; no answer at all is SourceUnreachable, or its kind `Passing` when the
same question may well be answered in a moment. Nothing is tried twice here and nothing is trusted:
`caches` insists, and whoever uses the offer verifies it.

Source of the formats: Nix manual, "Binary cache", and Nix's binary-cache-store.cc.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import urllib3.exceptions

from cri_proxy import errors
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo, protocol
from cri_proxy.store.http.connections import SILENCE_SECONDS, Connections
from cri_proxy.store.http.exchanges import (
    Exchange,
    Head,
    Passing,
    Response,
    Stale,
    text_of,
)
from cri_proxy.store.http.messages import Broken
from cri_proxy.store.nar import ByteSource
from cri_proxy.store.narinfo import NarInfo

__all__ = [
    "Connections",
    "Cache",
    "Directory",
    "Offer",
    "Passing",
    "Site",
    "SILENCE_SECONDS",
    "of_url",
]

SHUNNED_SECONDS: Final = 10.0
SMALL_BYTES: Final = 4 * 1024 * 1024
"""Longest file that is read whole."""

_PIECE_BYTES: Final = 256 * 1024
_REFUSAL_BYTES: Final = 64 * 1024
_DEFAULT_PRIORITY: Final = 50
_LAST_PRIORITY: Final = 1_000_000_000
_MISSES: Final = frozenset({401, 403, 404, 410})
_PASSING: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Offer:
    """A path that a cache has: what it says of it, and the way to the NAR."""

    cache: Cache
    narinfo: NarInfo

    @contextlib.contextmanager
    def open(self) -> Iterator[ByteSource]:
        """Open the stream of the NAR as the cache has it, compressed."""
        with contextlib.ExitStack() as stack:
            try:
                body = stack.enter_context(self.cache.open(self.narinfo.url))
            except errors.NotFound as error:
                raise errors.ContentDamaged(
                    f"has a narinfo but not its archive {self.narinfo.url}: {error}"
                ) from error
            yield body


class Cache:
    """What both kinds have in common; safe for threads. `url` may be shown to anybody.

    What `is_near` is read without waiting for anybody; what `is_open` asks for no login.
    """

    is_near = False
    is_open = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._shunned_until = 0.0
        self._greeting = threading.Lock()
        self._priority: int | None = None
        self._refusal: errors.CriProxyError | None = None
        self._refused_at = 0.0

    def open(self, name: str) -> contextlib.AbstractContextManager[ByteSource]:
        """Open a file by its name, a path within the cache as `narinfo.parse` lets pass.

        Raises NotFound or SourceUnreachable.
        """
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Return a small file whole."""
        with self.open(name) as body:
            return _whole_of(body, name)

    def lookup(self, path: StorePath) -> Offer:
        """Return the cache's offer of a path; raise NotFound if it has none."""
        self.greet()
        return self.offer_of(path, self.read(name_of(path)))

    def offer_of(self, path: StorePath, text: bytes) -> Offer:
        """Return the offer of a path from the text of its narinfo; asks nobody."""
        if self._priority is None and isinstance(self._refusal, errors.RequestInvalid):
            raise errors.RequestInvalid(str(self._refusal))
        return Offer(self, narinfo.parse(text, path))

    def greet(self) -> None:
        """Read nix-cache-info, once: a cache of another store directory is of no use.

        Threads that come meanwhile wait and share the outcome, so that a dead cache costs them
        one timeout and not one each.
        """
        came_at = time.monotonic()
        with self._greeting:
            if self._priority is not None:
                return
            if self._refusal is not None and self._refused_at >= came_at:
                raise type(self._refusal)(str(self._refusal))
            try:
                self._priority = _priority_of(self.read("nix-cache-info"))
            except errors.NotFound:
                self._priority = _DEFAULT_PRIORITY
            except errors.CriProxyError as error:
                self._refusal, self._refused_at = error, time.monotonic()
                raise

    @property
    def priority(self) -> int:
        """The Priority that the cache has given itself; lowest of all until it has."""
        return _LAST_PRIORITY if self._priority is None else self._priority

    def learn_priority(self) -> None:
        """Ask for the Priority that the cache gives itself, unless it gave no answer just now."""
        if self._priority is None and not self.is_shunned:
            try:
                self.greet()
            except errors.SourceUnreachable:
                self.shun()
            except errors.CriProxyError:
                pass  # the lookup meets it again, and tells

    @property
    def is_shunned(self) -> bool:
        """Whether it failed to answer a moment ago."""
        return time.monotonic() < self._shunned_until

    def shun(self) -> None:
        """Remember that it failed to answer."""
        self._shunned_until = time.monotonic() + SHUNNED_SECONDS


class Directory(Cache):
    """A cache in a directory, as `nix copy --to file://…` makes it."""

    is_near = True
    is_open = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory.as_uri())
        self._directory = directory

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Open a file below the directory."""
        try:
            file: BinaryIO = (self._directory / name).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            if not self._directory.is_dir():
                raise errors.SourceUnreachable("there is no such directory") from None
            raise errors.NotFound("no such file") from None
        except OSError as error:
            raise errors.SourceUnreachable(f"{name}: {error.strerror}") from error
        with file:
            yield _Body(file)


class Site(Cache):
    """A cache behind HTTP; `base` ends with a slash and has no credentials."""

    def __init__(self, base: str, headers: dict[str, str], connections: Connections) -> None:
        super().__init__(base.rstrip("/"))
        self._base = base
        self._headers = headers
        self._connections = connections
        self.is_open = not headers

    @property
    def is_direct(self) -> bool:
        """Whether `begin` can do anything: not through a proxy."""
        return self._connections.is_direct(self._base)

    @property
    def late_seconds(self) -> float:
        """How long an answer may take before it is later than is usual."""
        return self._connections.late_seconds(self._base)

    def begin(self, name: str) -> Coming | None:
        """Ask for a small file on an idle connection and wait for nothing; None if there is none.

        A redirection is SourceUnreachable there: `open` follows it.
        """
        exchange = self._connections.begin(self._base + name, self._headers)
        return None if exchange is None else Coming(exchange, name)

    def widen(self) -> None:
        """Open another connection for `begin`; raises OSError."""
        self._connections.widen(self._base)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Open a file by GET; the site may redirect to another, which never sees credentials."""
        response = self._connections.get(self._base + name, self._headers)
        try:
            if response.status in _MISSES:
                with contextlib.suppress(urllib3.exceptions.HTTPError, Broken, OSError):
                    response.read(_REFUSAL_BYTES)  # they are common: it stays usable
            check_status(response)
            yield body_of(response)
        finally:
            # A body that was read to its end has given its connection back already; one that was
            # not has a connection in an unknown state, which is of no use to anybody.
            response.close()


class Coming:
    """A small file that was asked for, as far as it has come; can be polled."""

    __slots__ = ("_exchange", "_pieces", "_size", "name")

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self._exchange = exchange
        self._pieces: list[bytes] = []
        self._size = 0

    def fileno(self) -> int:
        """Return what can be polled: readable when `advance` has something to do."""
        return self._exchange.fileno()

    @property
    def since(self) -> float:
        """When something of it came last, in seconds of the monotonic clock."""
        return self._exchange.since

    def advance(self) -> bytes | None:
        """Take what has come, waiting for nothing; return the file when it is whole.

        Raises as `open` and `read` do, and Stale if the request has to be sent again.
        """
        exchange = self._exchange
        try:
            while True:
                if piece := exchange.receive():
                    self._pieces.append(piece)
                    self._size += len(piece)
                if exchange.is_over:
                    break
                self._bound(exchange)
                if not exchange.is_pending:
                    return None
            check_status(exchange)
        except BlockingIOError:
            return None
        except Stale:
            self.close()
            raise
        except (Broken, OSError) as error:
            self.close()
            raise Passing(text_of(error)) from error
        except BaseException:
            self.close()
            raise
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def close(self) -> None:
        """Give it up."""
        self._exchange.close()

    def _bound(self, exchange: Exchange) -> None:
        """Raise if more has come than a small file has, or than a refusal takes to say."""
        if exchange.status not in (0, 200) and self._size > _REFUSAL_BYTES:
            check_status(exchange)
        if self._size > SMALL_BYTES:
            raise errors.ContentDamaged(f"{self.name} is larger than {SMALL_BYTES} bytes")


def of_url(url: str, connections: Connections, *, login: tuple[str, str] | None = None) -> Cache:
    """Return the cache of a configured URL; raise RequestInvalid for a URL of another kind.

    `login` (user and password), or else `user:password@` in the URL, goes to that site alone and
    is never shown.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return Directory(Path(urllib.parse.unquote(parts.path)))
    if parts.scheme in {"http", "https"} and parts.hostname and not parts.query:
        written, _, host = parts.netloc.rpartition("@")
        credentials = ":".join(login) if login is not None else urllib.parse.unquote(written)
        headers = {}
        if credentials:
            token = base64.b64encode(credentials.encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        path = parts.path.rstrip("/") + "/"
        base = urllib.parse.urlunsplit((parts.scheme, host, path, "", ""))
        return Site(base, headers, connections)
    raise errors.RequestInvalid(
        f"{protocol.shown(url)[:200]!a} is not the URL of a binary cache: write "
        f"https://host/path, http://host/path or file:///directory"
    )


def name_of(path: StorePath) -> str:
    """Return the name of a path's narinfo."""
    return f"{path.digest}.narinfo"


class _Body:
    """A file's bytes; a stream that breaks off is a passing failure of the cache."""

    def __init__(self, body: ByteSource) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        try:
            return self._body.read(size)
        except (urllib3.exceptions.HTTPError, Broken, OSError) as error:
            raise Passing(f"broke off: {text_of(error)}") from error


def _whole_of(body: ByteSource, name: str) -> bytes:
    """Return all of a file that is small."""
    pieces, size = [], 0
    while size <= SMALL_BYTES and (piece := body.read(_PIECE_BYTES)):
        pieces.append(piece)
        size += len(piece)
    if size > SMALL_BYTES:
        raise errors.ContentDamaged(f"{name} is larger than {SMALL_BYTES} bytes")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_of(response: Response) -> ByteSource:
    """Return the body of a response as a cache's file."""
    return _Body(response)


def check_status(answer: Head, reason: str = "") -> None:
    """Raise NotFound for a miss, SourceUnreachable for any other answer but success.

    `reason` is what the server says beside the status.
    """
    status = answer.status
    if status == 200:
        return
    said = f"answered {status} {answer.reason or ''}".rstrip()
    if reason:
        said += f" ({reason})"
    if status in _MISSES:
        raise errors.NotFound(said)
    if status in _PASSING or status >= 500:
        asked = answer.headers.get("retry-after", "")
        raise Passing(said, float(asked) if asked.isdecimal() else 0.0)
    raise errors.SourceUnreachable(said)


def _priority_of(text: bytes) -> int:
    """Return the Priority of a nix-cache-info; raise RequestInvalid for another store's cache."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    directory = fields.get("StoreDir", storepaths.STORE)
    if directory != storepaths.STORE:
        raise errors.RequestInvalid(
            f"serves the store {directory[:200]!a}, not {storepaths.STORE}: take it off the list"
        )
    priority = fields.get("Priority", "")
    return int(priority) if priority.isdecimal() else _DEFAULT_PRIORITY
