"""The HTTP proxy between this node and a URL, as the environment's variables have it.

    HTTPS_PROXY, HTTP_PROXY     the proxy for URLs of that scheme
    ALL_PROXY                   the proxy for those that have none of their own
    NO_PROXY                    what is reached directly: names with all below them, host:port, *,
                                and networks (10.0.0.0/8) with the addresses in them

They are read as Python's standard library reads them (urllib.request): variables in lower case have
precedence, and empty ones are ignored. It does not support networks; those are read as kubelet and
the runtime do, which have the same NO_PROXY on many nodes: a URL's host matches if it is an address
itself, names are not looked up. A proxy's URL and its login are separate values, so that the URL
brings no password into a message.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from cri_proxy import errors

_KINDS: Final = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: `http://host:port`, and the headers that log in to it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


class Proxies:
    """The proxies of this process's environment, as it is now."""

    def __init__(self) -> None:
        self._variables = _variables()
        self._networks = tuple(_networks_of(self._variables.get("no", "")))

    def of(self, url: str) -> Proxy | None:
        """Return the proxy for `url`, None if it is reached directly.

        Raises RequestInvalid when the variables name something that is no HTTP proxy.
        """
        if not self._variables:
            return None
        parts = urlsplit(url)
        value = self._variables.get(parts.scheme) or self._variables.get("all")
        if not value or self._is_excepted(parts.netloc.rpartition("@")[2], parts.hostname or ""):
            return None
        proxy = urlsplit(value if "://" in value else f"http://{value}")
        if proxy.scheme not in _KINDS or not proxy.hostname:
            raise errors.RequestInvalid(
                f"the {parts.scheme.upper()}_PROXY variable names no HTTP proxy: "
                "write http://host:port, or except the host by NO_PROXY"
            )
        user, is_there, place = proxy.netloc.rpartition("@")
        return Proxy(f"{proxy.scheme}://{place}", _login(user) if is_there else {})

    def _is_excepted(self, place: str, host: str) -> bool:
        """Return whether NO_PROXY lists a host, with or without its port."""
        import urllib.request  # see `_variables`

        if any(urllib.request.proxy_bypass(each, self._variables) for each in (place, host)):
            return True
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            return any(address in each for each in self._networks)
        return False


def _variables() -> dict[str, str]:
    """Return the variables of this process by what they are for: "http", "https", "all", "no"."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    import urllib.request  # a megabyte, and some ms of each worker's start

    return urllib.request.getproxies_environment()


def _networks_of(excepted: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Yield the networks in NO_PROXY; anything else in it is a name."""
    for each in excepted.split(","):
        if "/" in each:
            with contextlib.suppress(ValueError):
                yield ipaddress.ip_network(each.strip(), strict=False)


def _login(user: str) -> dict[str, str]:
    """Return the header for a `user:password` as it stands in a URL."""
    name, _, password = user.partition(":")
    secret = f"{unquote(name)}:{unquote(password)}".encode()
    return {"proxy-authorization": f"Basic {base64.b64encode(secret).decode()}"}
