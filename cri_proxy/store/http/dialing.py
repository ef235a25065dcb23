"""Dialing: a new connection to an origin, by TCP, through a proxy's tunnel, with TLS.

A proxy is asked by CONNECT for a tunnel to where https is spoken, and sees nothing of what passes.
It is spoken to in the clear: one that wants TLS itself, and all of http, is `forwarding`'s.

Names, sockets and TLS are the standard library's business. Source of the format: RFC 9110, 9.3.6.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - with the first name that is looked up, while others wait
import socket
import ssl
import urllib.parse
from pathlib import Path
from typing import Final

from cri_proxy.lib import certificates, proxies
from cri_proxy.lib.once import Once
from cri_proxy.store.http import messages
from cri_proxy.store.http.incoming import Incoming
from cri_proxy.store.http.messages import Broken, Origin

CONNECT_SECONDS: Final = 5.0
_RECEIVED_BYTES: Final = 4096


class Dialer:
    """Opens connections; safe for threads. `ca_file` replaces the system's authorities.

    Whoever connects has `silence_seconds` for each answer that it waits for.
    """

    def __init__(self, *, ca_file: Path | None, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._proxies = proxies.Proxies()
        self._trust = Once(lambda: certificates.context(file=ca_file))
        if ca_file is not None:
            self._trust.get()  # whoever set it hears at once that it cannot be read

    @property
    def trust(self) -> ssl.SSLContext:
        """Who vouches for sites."""
        return self._trust.get()

    def proxy_of(self, url: str) -> proxies.Proxy | None:
        """Return the proxy that forwards what is asked of a URL; None if `dial` leads there."""
        proxy = self._proxies.of(url)
        return None if proxy is None or _has_tunnels(url, proxy) else proxy

    def dial(self, origin: Origin) -> socket.socket:
        """Return a new connection; raises OSError, or Broken if a proxy refuses it."""
        scheme, host, port = origin
        url = f"{scheme}://{messages.place_of(host, port)}"
        proxy = self._proxies.of(url)
        if proxy is not None and _has_tunnels(url, proxy):
            made = _tunnel(proxy, host, port)
        else:
            made = socket.create_connection((host, port), CONNECT_SECONDS)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                made = self.trust.wrap_socket(made, server_hostname=host)
            made.settimeout(self._silence_seconds)
        except BaseException:
            made.close()
            raise
        return made


def _has_tunnels(url: str, proxy: proxies.Proxy) -> bool:
    """Whether a proxy is asked for a tunnel to where a URL leads."""
    return url.startswith("https:") and proxy.url.startswith("http:")


def _tunnel(proxy: proxies.Proxy, host: str, port: int) -> socket.socket:
    """Return a connection to a proxy, behind which is one to a host."""
    parts = urllib.parse.urlsplit(proxy.url)
    made = socket.create_connection((parts.hostname or "", parts.port or 80), CONNECT_SECONDS)
    try:
        made.sendall(messages.tunnel_of(host, port, proxy.headers))
        incoming = Incoming()
        while not incoming.status:
            data = made.recv(_RECEIVED_BYTES)
            if not data:
                raise Broken(f"the proxy {proxy.url} closed the connection without an answer")
            incoming.take(data)
        if not 200 <= incoming.status < 300:
            said = f"{incoming.status} {incoming.reason}".rstrip()
            raise Broken(f"the proxy {proxy.url} answered {said} when asked for {host}")
    except BaseException:
        made.close()
        raise
    return made
