"""Custom catalogs: where the store paths of published packages are kept.

Packages that an organization publishes are in no public cache. FloxHub's catalog lists, for each
store path, the binary caches that have it, the keys that sign there and what to log in with. The
store decides which cache is tried first and which signatures are trusted.

    POST <api>/api/v1/catalog/store   {"outpaths": ["/nix/store/…", …]}
    → {"items": {"/nix/store/…": [{"url", "auth", "public_keys", …}, …]}}

Logins are either the caller's FloxHub token, for hosts of FloxHub itself, or AWS variables for S3.
Both are secrets: they are in no repr and no message. A login of an unsupported kind is left out,
and the location says so, for the error if a fetch fails without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from cri_proxy.floxhub import fields
from cri_proxy.floxhub.hub import cleaned
from cri_proxy.floxhub.protocol import HubOptions
from cri_proxy.floxhub.transport import Deadline, RequestSubject, Transport
from cri_proxy.http.client import Request
from cri_proxy.lib.eventloop import Loop
from cri_proxy.model.cachelocations import Location, UnsupportedLogin
from cri_proxy.model.storepaths import StorePath

ANSWER_LIMIT: Final = 16 * 1024 * 1024
PATHS_AT_ONCE: Final = 500

TOKEN_HOSTS: Final = frozenset(
    {
        "publisher.flox.dev",
        "publisher.preview.flox.dev",
        "api.preview2.flox.dev",
        "experimental-warehouse.production2.flox.dev",
        "experimental-warehouse.preview2.flox.dev",
    }
)
"""Hosts to which Flox's own client sends the FloxHub token, besides the API's own."""

_USER: Final = "unused"
_S3: Final = "aws-s3"


class Catalog:
    """The catalog of one FloxHub; threads share it."""

    def __init__(self, options: HubOptions, loop: Loop | None = None) -> None:
        self._api_url = options.api_url.rstrip("/")
        self._timeout_seconds = options.timeout_seconds
        self._transport = Transport(options.api_url, ca_file=options.ca_file, loop=loop)

    def locations(self, paths: Sequence[StorePath], token: str | None) -> list[Location]:
        """Return the caches that have any of the paths, each with those that it has.

        Raises AccessDenied, NotFound, SourceUnreachable and ContentDamaged.
        """
        token = cleaned(token)
        deadline = Deadline(self._timeout_seconds)
        found: dict[Location, list[str]] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            for path, location in self._ask(paths[start : start + PATHS_AT_ONCE], token, deadline):
                found.setdefault(location, []).append(path.basename)
        return [replace(each, paths=tuple(names)) for each, names in found.items()]

    def _ask(
        self, paths: Sequence[StorePath], token: str | None, deadline: Deadline
    ) -> Iterator[tuple[StorePath, Location]]:
        """Yield each path with each of the caches that have it."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        answer = self._transport.ask(
            Request(
                f"{self._api_url}/api/v1/catalog/store",
                headers,
                method="POST",
                body=json.dumps({"outpaths": [str(each) for each in paths]}).encode("ascii"),
            ),
            ANSWER_LIMIT,
            RequestSubject(f"the published package {paths[0].name}{more}", token is not None),
            deadline,
        )
        items = fields.parse(answer.body, "the catalog's answer").require("items")
        for path in paths:
            for each in listed.items() if (listed := items.get(str(path))) else ():
                yield path, self._location(each, token)

    def _location(self, root: fields.Field, token: str | None) -> Location:
        url = root.require("url").text()
        keys = root.get("public_keys")
        login, name = root.get("auth"), root.get("catalog")
        variables = _variables_of(login)
        kind = None if login is None else _unsupported_kind_of(login)
        takes_token = token is not None and not variables and self._takes_token(url)
        return Location(
            url,
            user=_USER if takes_token else None,
            password=token if takes_token else None,
            variables=variables,
            public_keys=keys.texts() if keys else (),
            unsupported=None
            if kind is None
            else UnsupportedLogin(fields.shown(name.text()) if name else "without a name", kind),
        )

    def _takes_token(self, url: str) -> bool:
        """Return whether a cache is FloxHub's own, and as securely reached as the API itself."""
        api, cache = urlsplit(self._api_url), urlsplit(url)
        if (cache.scheme, cache.netloc) == (api.scheme, api.netloc):
            return True
        return cache.scheme == "https" and cache.hostname in TOKEN_HOSTS | {api.hostname}


def _variables_of(auth: fields.Field | None) -> tuple[tuple[str, str], ...]:
    """Return the variables of an `{"aws-s3": {"envs": {…}}}`; any other login has none."""
    s3 = auth.get(_S3) if auth and isinstance(auth.value, dict) else None
    variables = s3.get("envs") if s3 else None
    if variables is None:
        return ()
    return tuple((name, each.text()) for name, each in variables.members())


def _unsupported_kind_of(auth: fields.Field) -> str | None:
    """Return the kind of a login that is not supported: its keys, never a value."""
    if not isinstance(auth.value, dict):
        return fields.type_of(auth.value)
    kinds = [name for name, _ in auth.members()]
    return fields.shown(", ".join(kinds)) if kinds and _S3 not in kinds else None
