"""Messages of HTTP/1.1 as bytes: requests, and the heads of responses.

    parts_of     a URL → its origin and the target there
    request_of   origin, target, headers, method, body → the bytes of a request
    tunnel_of    a host → the bytes of a CONNECT
    head_of      the bytes of a response's head → version, status, reason, headers

The subset of HTTP that binary caches and FloxHub need. Nothing is sent or received here: see
`connections`; `incoming` parses what follows a head.

Source of the format: RFC 9112.
"""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

from cri_proxy.http.failures import Broken

PORTS: Final = {"http": 80, "https": 443}
"""Default ports of the supported schemes."""

AGENT: Final = "cri-proxy"

_PLAIN: Final = re.compile("[A-Za-z0-9/._-]*")
_SAFE: Final = "%/:=&?~#+!$,;'@()*[]|"

Origin = tuple[str, str, int]
"""Scheme, host and port."""


def parts_of(url: str) -> tuple[Origin, str]:
    """Return the origin of a URL, and the target there; raise Broken for one that is malformed."""
    end = url.find("/", url.find("//") + 2)
    base, target = (url[:end], url[end:]) if end >= 0 else (url, "/")
    try:
        if "?" in base or "#" in target:
            parts = urllib.parse.urlsplit(url)
            base = f"{parts.scheme}://{parts.netloc}"
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _origin_of(base), target
    except ValueError as error:
        raise Broken(str(error)) from error


@functools.lru_cache(maxsize=256)
def _origin_of(base: str) -> Origin:
    """Return the origin of a URL without a path; few sites are asked again and again."""
    parts = urllib.parse.urlsplit(base)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def request_of(
    origin: Origin,
    target: str,
    headers: Mapping[str, str],
    method: str = "GET",
    body: bytes = b"",
    is_forwarded: bool = False,
) -> bytes:
    """Return the bytes of a request; one that a proxy forwards has the whole URL for a target."""
    quoted = target if _PLAIN.fullmatch(target) else urllib.parse.quote(target, safe=_SAFE)
    if is_forwarded:
        quoted = f"{origin[0]}://{_host_of(origin)}{quoted}"
    if body or method not in {"GET", "HEAD"}:
        headers = {**headers, "Content-Length": str(len(body))}
    lines = _lines_of(origin, headers) if headers else _usual_lines_of(origin)
    return f"{method} {quoted} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def tunnel_of(host: str, port: int, headers: Mapping[str, str]) -> bytes:
    """Return the bytes that ask a proxy for a tunnel to a host."""
    place = place_of(host, port)
    fields = {"Host": place, "User-Agent": AGENT, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"CONNECT {place} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def place_of(host: str, port: int | None) -> str:
    """Return a host, and its port if there is one, as URLs and requests write them."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _host_of(origin: Origin) -> str:
    scheme, host, port = origin
    return place_of(host, None if port == PORTS[scheme] else port)


def _lines_of(origin: Origin, headers: Mapping[str, str]) -> str:
    fields = {"Host": _host_of(origin), "User-Agent": AGENT, "Accept-Encoding": "identity"}
    return "".join(f"{name}: {value}\r\n" for name, value in (fields | {**headers}).items())


@functools.lru_cache(maxsize=256)
def _usual_lines_of(origin: Origin) -> str:
    """Return the same for a request without headers of its own, as nearly all are."""
    return _lines_of(origin, {})


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
