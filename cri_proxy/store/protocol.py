"""What the daemon and its workers say to each other about the store: names of jobs, shapes of JSON.

The daemon asks, workers do; this is what both know. Whoever imports it gets neither HTTP nor
decompression nor cryptography, which the daemon would carry for nothing.

    Fact      {"path": basename, "references": [basename, ...], "nar_size": bytes}, and of an
              absent path also {"cache": url, "narinfo": text, "file_size"?: bytes}
    Location  a binary cache of one realization, see `locations`; holds a login, is never shown
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

SURVEY: Final = "store.survey"
FIND: Final = "store.find"
FETCH: Final = "store.fetch"
FETCH_FEW: Final = "store.fetch_few"
RECOVER: Final = "store.recover"
REMOVE: Final = "store.remove"
NIX_REALISE: Final = "store.nix.realise"
NIX_FIND: Final = "store.nix.find"
NIX_RECOVER: Final = "store.nix.recover"

Fact = dict[str, Any]
Location = Mapping[str, Any]


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: login, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def url_of(location: Location) -> str:
    """Return a location's URL without login or query, as it may be shown."""
    return shown(location["url"]).rstrip("/")
