"""Custom catalogs: where the store paths of published packages are kept.

Packages that an organization publishes are in no public cache. FloxHub's catalog tells, store path
by store path, the binary caches that have them, the keys that sign there and what to log in with.
The answer is handed to the store as it is: which cache is tried first, and what a signature is
worth, is not decided here.

    POST <api>/api/v1/catalog/store   {"outpaths": ["/nix/store/…", …]}
    → {"items": {"/nix/store/…": [{"url", "auth", "public_keys", …}, …]}}

Logins are either the caller's FloxHub token, for hosts of FloxHub itself, or variables of the AWS
kind for S3. Both are secrets: they are in no repr and no message. A login of a kind that is not
spoken here is left out, and the location says so, for whoever fails for lack of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cri_proxy.floxhub import fields
from cri_proxy.floxhub.hub import cleaned
from cri_proxy.floxhub.transport import (
    Deadline,
    HubRequest,
    RequestSubject,
    Transport,
)
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


@dataclass(frozen=True, slots=True)
class Basic:
    """A login by HTTP Basic."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Variables:
    """A login by variables, as `AWS_ACCESS_KEY_ID` and its kin for S3."""

    values: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unspoken:
    """A login of a `kind` that is not spoken here; `catalog` is the organization's that gave it."""

    catalog: str
    kind: str


@dataclass(frozen=True, slots=True)
class Location:
    """A binary cache that has a store path; `public_keys` are `name:base64` each."""

    url: str
    auth: Basic | Variables | None
    public_keys: tuple[str, ...]
    unspoken: Unspoken | None = None

    def to_wire(self) -> dict[str, object]:
        """Return JSON, with secrets.

        `{"url", "user", "password", "variables", "public_keys", "unspoken": {"catalog", "kind"}}`
        """
        basic = self.auth if isinstance(self.auth, Basic) else None
        variables = self.auth if isinstance(self.auth, Variables) else None
        return {
            "url": self.url,
            "user": basic.user if basic else None,
            "password": basic.password if basic else None,
            "variables": dict(variables.values) if variables else {},
            "public_keys": list(self.public_keys),
            "unspoken": None if self.unspoken is None else asdict(self.unspoken),
        }


class Catalog:
    """The catalog of one FloxHub; threads share it."""

    def __init__(
        self, api_url: str, *, timeout_seconds: float, ca_file: Path | None = None
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._transport = Transport(api_url, ca_file=ca_file)

    def locations(
        self, paths: Sequence[StorePath], token: str | None
    ) -> dict[StorePath, tuple[Location, ...]]:
        """Return the caches that have each path; a path that the catalog does not know has none.

        Raises AccessDenied, NotFound, SourceUnreachable and ContentDamaged.
        """
        token = cleaned(token)
        deadline = Deadline(self._timeout_seconds)
        found: dict[StorePath, tuple[Location, ...]] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            found |= self._asked(paths[start : start + PATHS_AT_ONCE], token, deadline)
        return found

    def _asked(
        self, paths: Sequence[StorePath], token: str | None, deadline: Deadline
    ) -> dict[StorePath, tuple[Location, ...]]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        answer = self._transport.ask(
            HubRequest(
                method="POST",
                url=f"{self._api_url}/api/v1/catalog/store",
                limit=ANSWER_LIMIT,
                body=json.dumps({"outpaths": [str(each) for each in paths]}).encode("ascii"),
                headers=headers,
            ),
            RequestSubject(f"the published package {paths[0].name}{more}", token is not None),
            deadline,
        )
        items = fields.parse(answer.body, "the catalog's answer").require("items")
        found: dict[StorePath, tuple[Location, ...]] = {}
        for path in paths:
            listed = items.get(str(path))
            known = listed.items() if listed else ()
            found[path] = tuple(self._location(each, token) for each in known)
        return found

    def _location(self, root: fields.Field, token: str | None) -> Location:
        url = root.require("url").text()
        keys = root.get("public_keys")
        login, name = root.get("auth"), root.get("catalog")
        variables = _variables_of(login)
        kind = None if login is None else _unspoken_kind_of(login)
        unspoken = None
        if kind is not None:
            unspoken = Unspoken(fields.shown(name.text()) if name else "without a name", kind)
        if variables:
            auth: Basic | Variables | None = Variables(variables)
        elif token is not None and self._takes_token(url):
            auth = Basic(_USER, token)
        else:
            auth = None
        return Location(url, auth, keys.texts() if keys else (), unspoken)

    def _takes_token(self, url: str) -> bool:
        """Whether a cache is FloxHub's own, reached as securely as the API itself is."""
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


def _unspoken_kind_of(auth: fields.Field) -> str | None:
    """Return what kind of login this is if it is none of ours: its keys, never a value."""
    if not isinstance(auth.value, dict):
        return fields.type_of(auth.value)
    kinds = [name for name, _ in auth.members()]
    return fields.shown(", ".join(kinds)) if kinds and _S3 not in kinds else None
