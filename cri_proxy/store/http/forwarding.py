"""Forwarding: requests that an HTTP proxy sends on, from start to end by urllib3.

For http, and for proxies that are themselves reached by TLS; `dialing` has tunnels for the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

import urllib3

from cri_proxy import errors
from cri_proxy.lib import proxies
from cri_proxy.store.http.dialing import CONNECT_SECONDS, Dialer
from cri_proxy.store.http.exchanges import Passing, Response, text_of

REDIRECTIONS: Final = 5


class Forwarding:
    """The connections to proxies, up to `size` to each; safe for threads."""

    def __init__(self, dialer: Dialer, *, size: int, silence_seconds: float) -> None:
        self._dialer = dialer
        self._size = size
        self._silence_seconds = silence_seconds
        self._managers: dict[str, urllib3.ProxyManager] = {}
        self._changing = threading.Lock()

    def get(
        self, proxy: proxies.Proxy, url: str, headers: Mapping[str, str], *, redirections: int
    ) -> Response:
        """Send a GET and return the response, its body not read; raise SourceUnreachable.

        So many `redirections` are followed; if there may be none, one is the response.
        """
        try:
            return self._manager_of(proxy).request(
                "GET",
                url,
                headers={"User-Agent": "cri-proxy", "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=redirections > 0,
                retries=urllib3.Retry(
                    total=redirections,
                    connect=0,
                    read=0,
                    status=0,
                    other=0,
                    redirect=redirections,
                ),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=self._silence_seconds),
            )
        except urllib3.exceptions.HTTPError as error:
            reason = _cause_of(error)
            if isinstance(reason, urllib3.exceptions.SSLError):
                raise errors.SourceUnreachable(f"TLS failed: {reason}") from error
            raise Passing(text_of(reason)) from error

    def _manager_of(self, proxy: proxies.Proxy) -> urllib3.ProxyManager:
        with self._changing:
            if proxy.url not in self._managers:
                self._managers[proxy.url] = urllib3.ProxyManager(
                    proxy.url,
                    maxsize=self._size,
                    ssl_context=self._dialer.trust,
                    proxy_headers=proxy.headers,
                )
            return self._managers[proxy.url]


def _cause_of(error: Exception) -> Exception:
    """Return what is behind urllib3's MaxRetryError."""
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else None
    return error if reason is None else reason
