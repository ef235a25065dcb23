"""Locations: the binary caches in which FloxHub's catalog says that published packages are.

`floxhub.catalog` makes these values of the catalog's answer, and `store.caches.locations` makes
caches of them, for one realization. They hold logins: these are in no repr, and are sent between
processes over pipes only.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnsupportedLogin:
    """A login of a `kind` that is not supported here; `catalog` is the organization's."""

    catalog: str
    kind: str


@dataclass(frozen=True, slots=True)
class Location:
    """A binary cache, what to log in with, and the paths (basenames) that the catalog lists there.

    The login is `user` and `password` for HTTP Basic, or `variables` such as AWS_ACCESS_KEY_ID for
    S3; `unsupported` is set where a login of another kind was left out. `public_keys` are
    `name:base64` each.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    public_keys: tuple[str, ...] = ()
    unsupported: UnsupportedLogin | None = None
    paths: tuple[str, ...] = ()
