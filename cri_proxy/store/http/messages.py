"""Messages of HTTP/1.1 as bytes: what a request says, and what the head of its answer means.

    parts_of     a URL → its origin, and what to ask for there
    request_of   these two, and headers → the bytes of a GET
    tunnel_of    a host → the bytes of a CONNECT
    head_of      the bytes of an answer's head → version, status, reason, headers

No more of HTTP than binary caches speak. Nothing is sent or received here: see `exchanges`; and
`incoming` for what follows a head.

Source of the format: RFC 9112.
"""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

PORTS: Final = {"http": 80, "https": 443}
"""Of the schemes that are spoken."""

_PLAIN: Final = re.compile("[A-Za-z0-9/._-]*")
_SAFE: Final = "%/:=&?~#+!$,;'@()*[]|"

Origin = tuple[str, str, int]
"""Scheme, host and port: what a connection leads to."""


class Broken(Exception):
    """The other side does not speak HTTP, or went away in the middle of it."""


def parts_of(url: str) -> tuple[Origin, str]:
    """Return where a URL leads, and what to ask for there."""
    end = url.find("/", url.find("//") + 2)
    base, target = (url[:end], url[end:]) if end >= 0 else (url, "/")
    if "?" in base or "#" in target:
        parts = urllib.parse.urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _origin_of(base), target


@functools.lru_cache(maxsize=256)
def _origin_of(base: str) -> Origin:
    """Return the origin of a URL without a path: of a few sites, asked for again and again."""
    parts = urllib.parse.urlsplit(base)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def request_of(origin: Origin, target: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a GET."""
    scheme, host, port = origin
    place = place_of(host, None if port == PORTS[scheme] else port)
    quoted = target if _PLAIN.fullmatch(target) else urllib.parse.quote(target, safe=_SAFE)
    return _request("GET", quoted, place, {"Accept-Encoding": "identity", **headers})


def tunnel_of(host: str, port: int, headers: Mapping[str, str]) -> bytes:
    """Return the bytes that ask a proxy for a tunnel to a host."""
    place = place_of(host, port)
    return _request("CONNECT", place, place, headers)


def place_of(host: str, port: int | None) -> str:
    """Return a host, with its port if that is to be told, as it stands in URLs and requests."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _request(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    fields = {"Host": host, "User-Agent": "cri-proxy", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def head_of(head: bytes) -> tuple[bytes, int, str, dict[str, str]]:
    """Return version, status, reason and headers, by names in lower case; raise Broken."""
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():
        raise Broken(f"answers {first[:40]!a} instead of HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise Broken(f"answers with {line[:40]!a} for a header")
        key = name.decode("latin-1").lower()
        text = value.strip().decode("latin-1")
        if key in headers and key in {"content-length", "transfer-encoding", "location"}:
            if headers[key] != text:
                raise Broken(f"answers with two headers {key}")
        else:
            headers[key] = text
    return version, int(code), reason.decode("latin-1"), headers
