"""One binary cache: a directory, or a site behind https or http.

A cache is a set of small and large files: nix-cache-info, a narinfo for each path it has, and the
NARs that these name. `lookup` returns an `Offer`: the narinfo, and the way to its NAR. A file that
the cache lacks raises NotFound; a cache that does not answer raises SourceUnreachable, or its
subclass `Passing` where the same request may succeed in a moment. Nothing is retried here
(`failover` does that), and nothing is trusted: the user of an offer verifies it.

Files may be sent with a Content-Encoding of gzip or zstd, as caches over object stores do with
narinfos that were uploaded so.

Source of the formats: Nix manual, "Binary cache", and Nix's binary-cache-store.cc.
"""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cri_proxy import errors
from cri_proxy.http.client import Client, Head, Request, Response, encoding_of
from cri_proxy.http.failures import RequestFailed, TLSFailed, TooLarge, text_of
from cri_proxy.http.statuses import Meaning, meaning_of
from cri_proxy.lib import meters
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import compression, narinfo, protocol
from cri_proxy.store.nar import ByteSource
from cri_proxy.store.narinfo import NarInfo

SHUNNED_SECONDS: Final = 10.0
SMALL_BYTES: Final = 4 * 1024 * 1024
"""Longest file that is read whole."""

REFUSALS: Final = (
    errors.ContentDamaged,
    errors.RequestInvalid,
    errors.SourceUnreachable,
    errors.SignatureUntrusted,
    errors.NotFound,
)
"""Failures that another cache, or another attempt, may not have; the gravest first."""

_PIECE_BYTES: Final = 256 * 1024
_DEFAULT_PRIORITY: Final = 50
_LAST_PRIORITY: Final = 1_000_000_000
_OUTCOMES: Final = {Meaning.OK: "found", Meaning.MISSING: "missing", Meaning.DENIED: "missing"}
_requests = meters.counter(
    "cri_proxy_cache_requests_total",
    "Requests to binary caches by outcome: found, missing, failed or unreachable.",
    "cri_proxy_outcome",
)


class Passing(errors.SourceUnreachable):
    """No answer now, perhaps one in a moment; `pause` is the seconds that the server asks for."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class Offer:
    """A path that a cache has: its narinfo, and the way to the NAR."""

    cache: Cache
    narinfo: NarInfo

    @contextlib.contextmanager
    def open(self) -> Iterator[ByteSource]:
        """Open the NAR as the cache has it, compressed."""
        with contextlib.ExitStack() as stack:
            try:
                body = stack.enter_context(self.cache.open(self.narinfo.url))
            except errors.NotFound as error:
                raise errors.ContentDamaged(
                    f"has a narinfo but not its archive {self.narinfo.url}: {error}"
                ) from error
            yield body


class Cache:
    """What all kinds have in common; safe for threads. `url` has no credentials in it.

    A cache that `is_near` is read without waiting; one that `is_open` needs no login.
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
        """Open a file by its name, a path within the cache that `narinfo.parse` accepts.

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
        """Return the offer of a path from the text of its narinfo, without a request."""
        if self._priority is None and isinstance(self._refusal, errors.RequestInvalid):
            raise errors.RequestInvalid(str(self._refusal))
        return Offer(self, narinfo.parse(text, path))

    def greet(self) -> None:
        """Read nix-cache-info once, and refuse a cache of another store directory.

        Threads that call this meanwhile wait and share the outcome, so that a dead cache costs one
        timeout for all of them.
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
        """The Priority in its nix-cache-info; the lowest of all until that has been read."""
        return _LAST_PRIORITY if self._priority is None else self._priority

    def learn_priority(self) -> None:
        """Read the Priority in its nix-cache-info, unless it failed to answer a moment ago."""
        if self._priority is None and not self.is_shunned:
            try:
                self.greet()
            except errors.SourceUnreachable:
                self.shun()
            except errors.CriProxyError:
                pass  # the lookup fails in the same way, and reports it

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

    def __init__(self, base: str, headers: dict[str, str], client: Client) -> None:
        super().__init__(base.rstrip("/"))
        self._base = base
        self._headers = headers
        self._client = client
        self.is_open = not headers

    async def fetch(self, name: str) -> bytes:
        """Return a small file whole: `read` for coroutines of the client's event loop."""
        try:
            fetched = await self._client.fetch(
                Request(self._base + name, self._headers), limit=SMALL_BYTES
            )
        except TooLarge as error:
            raise errors.ContentDamaged(f"{name} {error}") from error
        except RequestFailed as error:
            raise _refusal_of(error) from error
        check_status(fetched)
        if "content-encoding" in fetched.headers:
            return _whole_of(_decoded(io.BytesIO(fetched.body), fetched, name), name)
        return fetched.body

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Open a file by GET; redirects are followed, to other sites without credentials."""
        request = Request(self._base + name, self._headers)
        with contextlib.closing(response_to(request, self._client)) as response:
            if meaning_of(response.status) is not Meaning.OK:
                response.skip()  # misses are common: their connection is kept
            check_status(response)
            yield body_of(response, name)


def of_url(url: str, client: Client, *, login: tuple[str, str] | None = None) -> Cache:
    """Return the cache of a configured URL; raise RequestInvalid for a URL of another kind.

    `login` (user and password), or else `user:password@` in the URL, is sent to that site alone
    and never shown.
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
        return Site(base, headers, client)
    raise errors.RequestInvalid(
        f"{protocol.shown(url)[:200]!a} is not the URL of a binary cache: write "
        f"https://host/path, http://host/path or file:///directory"
    )


def name_of(path: StorePath) -> str:
    """Return the name of a path's narinfo."""
    return f"{path.digest}.narinfo"


def body_of(response: Response, name: str) -> ByteSource:
    """Return the body of a response as a cache's file."""
    return _decoded(_Body(response), response, name)


def response_to(request: Request, client: Client) -> Response:
    """Return the response of a cache, its body not read; raise SourceUnreachable."""
    try:
        return client.open(request)
    except RequestFailed as error:
        raise _refusal_of(error) from error


def _refusal_of(error: RequestFailed) -> errors.SourceUnreachable:
    _requests.add(1, "unreachable")
    if isinstance(error, TLSFailed):
        return errors.SourceUnreachable(str(error))
    return Passing(str(error))


def check_status(head: Head, reason: str = "") -> None:
    """Raise NotFound for a miss, SourceUnreachable for any other response but success.

    `reason` is what the server says besides the status.
    """
    meaning = meaning_of(head.status)
    _requests.add(1, _OUTCOMES.get(meaning, "failed"))
    if meaning is Meaning.OK:
        return
    said = f"answered {head.status} {head.reason}".rstrip()
    if reason:
        said += f" ({reason})"
    if meaning in (Meaning.MISSING, Meaning.DENIED):
        raise errors.NotFound(said)
    if meaning is Meaning.TRANSIENT:
        asked = head.headers.get("retry-after", "")
        raise Passing(said, float(asked) if asked.isdecimal() else 0.0)
    raise errors.SourceUnreachable(said)


class _Body:
    """A file's bytes; a stream that breaks off is a transient failure of the cache."""

    def __init__(self, body: ByteSource) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        try:
            return self._body.read(size)
        except (RequestFailed, OSError) as error:
            raise Passing(f"broke off: {text_of(error)}") from error


def _decoded(body: ByteSource, head: Head, name: str) -> ByteSource:
    try:
        encoding = encoding_of(head)
    except RequestFailed as error:
        raise errors.SourceUnreachable(f"{name}: {error}") from error
    label = f"{name} (sent with Content-Encoding: {encoding})"
    return compression.reader_of(body, encoding, label=label) if encoding else body


def _whole_of(body: ByteSource, name: str) -> bytes:
    pieces, size = [], 0
    while size <= SMALL_BYTES and (piece := body.read(_PIECE_BYTES)):
        pieces.append(piece)
        size += len(piece)
    if size > SMALL_BYTES:
        raise errors.ContentDamaged(f"{name} is larger than {SMALL_BYTES} bytes")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


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
