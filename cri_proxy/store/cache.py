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
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import urllib3

from cri_proxy import errors
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo, wire
from cri_proxy.store.nar import Source
from cri_proxy.store.narinfo import NarInfo

CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0
SHUNNED_SECONDS: Final = 10.0
MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
_DEFAULT_PRIORITY: Final = 50
_LAST_PRIORITY: Final = 1_000_000_000
_MISSES: Final = frozenset({401, 403, 404, 410})
_PASSING: Final = frozenset({408, 425, 429})


class Passing(errors.SourceUnreachable):
    """No answer now, perhaps one in a moment; `pause` is the seconds that the server asks for."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class Offer:
    """A path that a cache has: what it says of it, and the way to the NAR."""

    cache: Cache
    narinfo: NarInfo

    @contextlib.contextmanager
    def open(self) -> Iterator[Source]:
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

    def open(self, name: str) -> contextlib.AbstractContextManager[Source]:
        """Open a file by its name, a path within the cache as `narinfo.parse` lets pass.

        Raises NotFound or SourceUnreachable.
        """
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Return a small file whole."""
        with self.open(name) as body:
            data = b""
            while len(data) <= MAX_TEXT_BYTES and (chunk := body.read(65536)):
                data += chunk
            if len(data) > MAX_TEXT_BYTES:
                raise errors.ContentDamaged(f"{name} is larger than {MAX_TEXT_BYTES} bytes")
        return data

    def lookup(self, path: StorePath) -> Offer:
        """Return the cache's offer of a path; raise NotFound if it has none."""
        self.greet()
        return Offer(self, narinfo.parse(self.read(f"{path.digest}.narinfo"), path))

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
        """The Priority that the cache gives itself; lowest of all while it gives no answer."""
        if self._priority is None and not self.is_shunned:
            try:
                self.greet()
            except errors.SourceUnreachable:
                self.shun()
            except errors.CriProxyError:
                pass  # the lookup meets it again, and tells
        return _LAST_PRIORITY if self._priority is None else self._priority

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
    def open(self, name: str) -> Iterator[Source]:
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

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Source]:
        """Open a file by GET; the site may redirect to another, which never sees credentials."""
        response = self._connections.get(self._base + name, self._headers)
        try:
            check_status(response)
            yield body_of(response)
        finally:
            # A body that was read to its end has given its connection back already; one that was
            # not has a connection in an unknown state, which is of no use to anybody.
            response.close()


class Connections:
    """The connections to all sites, up to `size` to each kept open between requests.

    `ca_file` replaces the system's certificate authorities; a site that sends nothing for
    `silence_seconds` is given up.
    """

    def __init__(
        self, *, ca_file: Path | None, size: int, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._silence_seconds = silence_seconds
        self._context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._size = size
        self._proxies = urllib.request.getproxies()
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._making = threading.Lock()

    def get(
        self, url: str, headers: dict[str, str], *, follows: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """Send a GET and return the response, its body not read; raise SourceUnreachable.

        A redirect is followed, without credentials if it leads elsewhere, or is the response.
        """
        try:
            return self._manager_of(url).request(
                "GET",
                url,
                headers={"User-Agent": "cri-proxy", "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=follows,
                retries=urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=self._silence_seconds),
            )
        except urllib3.exceptions.HTTPError as error:
            reason = _cause_of(error)
            if isinstance(reason, urllib3.exceptions.SSLError):
                raise errors.SourceUnreachable(f"TLS failed: {reason}") from error
            raise Passing(_text_of(reason)) from error

    def _manager_of(self, url: str) -> urllib3.PoolManager:
        """Return the manager for the proxy that the environment sets for this URL, or for none."""
        parts = urllib.parse.urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        if proxy is not None and urllib.request.proxy_bypass(parts.hostname or ""):
            proxy = None
        with self._making:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy)
            return self._managers[proxy]

    def _new_manager(self, proxy: str | None) -> urllib3.PoolManager:
        if proxy is None:
            return urllib3.PoolManager(maxsize=self._size, ssl_context=self._context)
        credentials = urllib3.util.parse_url(proxy).auth
        return urllib3.ProxyManager(
            proxy,
            maxsize=self._size,
            ssl_context=self._context,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=credentials),
        )


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
        f"{wire.shown(url)[:200]!a} is not the URL of a binary cache: write "
        f"https://host/path, http://host/path or file:///directory"
    )


class _Body:
    """A file's bytes; a stream that breaks off is a passing failure of the cache."""

    def __init__(self, body: Source) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        try:
            return self._body.read(size)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Passing(f"broke off: {_text_of(error)}") from error


def body_of(response: urllib3.BaseHTTPResponse) -> Source:
    """Return the body of a response as a cache's file."""
    return _Body(response)


def check_status(response: urllib3.BaseHTTPResponse, reason: str = "") -> None:
    """Raise NotFound for a miss, SourceUnreachable for any other answer but success.

    `reason` is what the server says beside the status.
    """
    status = response.status
    if status == 200:
        return
    answer = f"answered {status} {response.reason or ''}".rstrip()
    if reason:
        answer += f" ({reason})"
    if status in _MISSES:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            response.read(65536)  # misses are common: this keeps the connection usable
        raise errors.NotFound(answer)
    if status in _PASSING or status >= 500:
        asked = response.headers.get("Retry-After", "")
        raise Passing(answer, float(asked) if asked.isdecimal() else 0.0)
    raise errors.SourceUnreachable(answer)


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


def _cause_of(error: Exception) -> Exception:
    """Return what is behind urllib3's MaxRetryError."""
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else None
    return error if reason is None else reason


def _text_of(error: Exception) -> str:
    """Return what an operator should read of a connection's failure."""
    return str(error) or type(error).__name__
