"""A local FloxHub: environments in git over smart HTTP, and the catalog's store locations.

Two kinds serve the same repositories. `git` runs git's own http-backend behind a small HTTP server,
with protocol 2 or 0, which is as close to FloxHub as possible. `dulwich` works without git, and
speaks protocol 0. Pushes are visible at once. For faults of the server, see `web`.

    with FloxHub(directory) as hub:
        hub.push("alice", "web", lockfile)
        Hub(options).resolve(…)
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from dulwich.errors import GitProtocolError, NotGitRepository
from dulwich.protocol import pkt_line
from dulwich.repo import Repo
from dulwich.server import Backend
from dulwich.web import HTTPGitApplication

from hack.testbed.floxmeta import Floxmeta
from hack.testbed.web import WAIT_SECONDS, Request, Server, Status

Kind = Literal["git", "dulwich"]


class FloxHub(Server):
    """A FloxHub, by default on 127.0.0.1; serves while the context lasts."""

    def __init__(
        self,
        root: Path,
        *,
        kind: Kind = "dulwich",
        protocol: Literal[0, 2] = 2,
        certificate: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        """Serve the repositories in `root`."""
        super().__init__(certificate=certificate, address=address)
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.kind = kind
        self.meta = Floxmeta(root)
        self.push = self.meta.push
        self.set_live = self.meta.set_live
        self._protocol = protocol
        self._git = HTTPGitApplication(_Repositories(self.meta))
        self._tokens: dict[str, tuple[frozenset[str], int]] = {}
        self._hides_missing = False
        self._published: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._catalog_tokens: frozenset[str] | None = None
        self._packages: Path | None = None
        self._packages_tokens: frozenset[str] = frozenset()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.meta.close()

    @property
    def git_url(self) -> str:
        """The URL for `floxhub.hub.Hub`."""
        return f"{self.url}/git"

    @property
    def api_url(self) -> str:
        """The URL for `floxhub.catalog.Catalog`."""
        return self.url

    def require_token(self, owner: str, *tokens: str, status: int = 401) -> None:
        """Require one of these tokens for an owner's environments; without any, always refuse."""
        self._tokens[owner] = (frozenset(tokens), status)

    def open_to_all(self, owner: str) -> None:
        """Make an owner's environments public again."""
        self._tokens.pop(owner, None)

    def hide_missing(self) -> None:
        """Require a token for missing repositories, as public git hosts do."""
        self._hides_missing = True

    def publish(self, path: str, *locations: Mapping[str, Any]) -> None:
        """Set the catalog's locations of a store path: `{"url", "auth", "public_keys", …}` each."""
        self._published[path] = locations

    def require_catalog_token(self, *tokens: str) -> None:
        """Require one of these bearer tokens for the catalog; without any, always refuse."""
        self._catalog_tokens = frozenset(tokens)

    @property
    def packages_url(self) -> str:
        """The URL of FloxHub's own binary cache; see `keep_packages`."""
        return f"{self.url}/packages"

    def keep_packages(self, directory: Path, *tokens: str) -> None:
        """Serve a binary cache at `packages_url`, with one of the tokens as password."""
        self._packages = directory
        self._packages_tokens = frozenset(tokens)

    @property
    def packs_sent(self) -> int:
        """The number of fetches, with any protocol."""
        return sum(b"want " in each.body for each in self.requests)

    def answer(self, request: Request) -> Status:
        """Return the answer to a request."""
        path, _, query = request.path.partition("?")
        if path == "/api/v1/catalog/store":
            return self._answer_catalog(request)
        if path.startswith("/packages/"):
            return self._answer_package(request, path.removeprefix("/packages/"))
        if not path.startswith("/git/"):
            return Status(404, b"not found")
        path = path.removeprefix("/git")
        owner = path.split("/")[1]
        tokens, status = self._tokens.get(owner, (None, 0))
        if tokens is not None and request.password not in tokens:
            return Status(status, b"token required")
        if self.meta.find(owner) is None:
            return Status(401 if self._hides_missing else 404, b"no such repository")
        if self.kind == "git":
            return self._run_git(request, path, query)
        return self._call_dulwich(request, path, query)

    def _answer_catalog(self, request: Request) -> Status:
        if self._catalog_tokens is not None and request.bearer not in self._catalog_tokens:
            return Status(401, b"{}", {"Content-Type": "application/json"})
        asked = json.loads(request.body)["outpaths"]
        items = {each: self._published[each] for each in asked if each in self._published}
        return Status(
            200, json.dumps({"items": items}).encode(), {"Content-Type": "application/json"}
        )

    def _answer_package(self, request: Request, name: str) -> Status:
        if request.password not in self._packages_tokens:
            return Status(401, b"token required")
        file = None if self._packages is None else self._packages / name
        if file is None or ".." in file.parts or not file.is_file():
            return Status(404, b"no such file")
        return Status(200, file, {"Content-Type": "application/octet-stream"})

    def _run_git(self, request: Request, path: str, query: str) -> Status:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(self.root),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "GIT_PROTOCOL": request.headers.get("git-protocol", "") if self._protocol == 2 else "",
        }
        done = subprocess.run(
            ["git", "http-backend"],
            env=environment,
            input=request.body,
            capture_output=True,
            check=False,
            timeout=WAIT_SECONDS,
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if line)
        status = int(headers.get("Status", "200").split()[0])
        return Status(status, body, {"Content-Type": headers.get("Content-Type", "text/plain")})

    def _call_dulwich(self, request: Request, path: str, query: str) -> Status:
        begun: list[tuple[str, str]] = []
        body = bytearray()

        def start(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None, /
        ) -> Callable[[bytes], object]:
            begun.append((status, dict(headers).get("Content-Type", "text/plain")))
            return body.extend

        environment = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "wsgi.input": BytesIO(request.body),
        }
        try:
            for chunk in self._git(environment, start):
                body += chunk
        except GitProtocolError as error:  # as git does; dulwich would not answer
            body = bytearray(pkt_line(f"ERR upload-pack: {error}".encode()))
        status, kind = begun[0]
        return Status(int(status.split()[0]), bytes(body), {"Content-Type": kind})


class _Repositories(Backend):
    """The owners' repositories, for dulwich's server."""

    def __init__(self, meta: Floxmeta) -> None:
        self._meta = meta

    def open_repository(self, path: str | bytes) -> Repo:
        text = path.decode() if isinstance(path, bytes) else path
        parts = text.strip("/").split("/")
        found = self._meta.find(parts[0]) if parts[1:] == ["floxmeta"] else None
        if found is None:
            raise NotGitRepository(text)
        return found
