"""New connections to origins: TCP, a proxy or its tunnel, TLS.

For https a proxy is asked for a tunnel by CONNECT, and sees nothing of what passes through it. For
http the connection leads to the proxy, which forwards each request. The proxy itself may be behind
TLS in both cases.

Source of the format: RFC 9110, 9.3.6.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - else it is imported with the first name, while others wait
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cri_proxy.http import messages
from cri_proxy.http.connections import BodyBuffer, ClientConnection, Exchange
from cri_proxy.http.failures import (
    Broken,
    ProxyFailed,
    RequestFailed,
    TimedOut,
    TLSFailed,
    Unconnected,
    Unresolved,
    text_of,
)
from cri_proxy.http.messages import Origin
from cri_proxy.lib import certificates, proxies

CONNECT_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 10.0
"""Longest TLS handshake, and longest answer of a proxy to CONNECT."""

_RESOLVERS: Final = 8
"""Names that are resolved at a time. libuv's own threads resolve two, so that two name servers
without an answer would keep all other connections from being opened."""


class Dialer:
    """Opens connections in the event loop's thread.

    `ca_file`, or the context `trust`, replaces the system's certificate authorities.
    `source` is the local address to connect from; no proxy is used if the network `is_direct`.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        trust: ssl.SSLContext | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        is_direct: bool = False,
        source: tuple[str, int] | None = None,
    ) -> None:
        self._connect_seconds = connect_seconds
        self._source = source
        self._proxies = None if is_direct else proxies.Proxies()
        if ca_file is not None:
            trust = certificates.context(file=ca_file)  # fails at once if it cannot be read
        self._trust = trust
        self._loading: asyncio.Future[ssl.SSLContext] | None = None
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolver")
        self._lookups: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    def proxy_of(self, origin: Origin) -> proxies.Proxy | None:
        """Return the proxy on the way to an origin."""
        scheme, host, port = origin
        if self._proxies is None:
            return None
        return self._proxies.of(f"{scheme}://{messages.place_of(host, port)}")

    async def dial(self, origin: Origin, proxy: proxies.Proxy | None) -> ClientConnection:
        """Return a new connection; raise RequestFailed."""
        scheme, host, port = origin
        connection = await (self._connect(host, port) if proxy is None else self._reach(proxy))
        try:
            if scheme == "https":
                if proxy is not None:
                    await _open_tunnel(connection, proxy, host, port)
                await self._secure(connection, host)
        except BaseException:
            connection.close(Broken("was given up"))
            raise
        return connection

    async def _connect(self, host: str, port: int) -> ClientConnection:
        """Open a TCP connection to the first address that accepts one.

        This is the one place where connections are opened: an address that may not be connected to
        is to be left out here.
        """
        failure: RequestFailed = Unresolved("the name has no address")
        for address in await self._addresses_of(host, port):
            try:
                async with asyncio.timeout(self._connect_seconds):
                    _, connection = await asyncio.get_running_loop().create_connection(
                        ClientConnection, address, port, local_addr=self._source
                    )
                return connection
            except TimeoutError:
                failure = Unconnected("connection timed out")
            except OSError as error:
                failure = Unconnected(text_of(error))
        raise failure

    async def _addresses_of(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host; lookups of one name at a time share their result."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            lookup = self._lookups.get((host, port))
        else:
            return (host,)
        if lookup is None:
            loop = asyncio.get_running_loop()
            lookup = loop.run_in_executor(self._resolvers, _resolve, host, port)
            self._lookups[host, port] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop((host, port)))
        return await asyncio.shield(lookup)

    async def _reach(self, proxy: proxies.Proxy) -> ClientConnection:
        parts = urllib.parse.urlsplit(proxy.url)
        host, port = parts.hostname or "", parts.port or messages.PORTS[parts.scheme]
        try:
            connection = await self._connect(host, port)
            if parts.scheme == "https":
                await self._secure(connection, host)
        except RequestFailed as error:
            raise ProxyFailed(f"the proxy {proxy.url} cannot be reached: {error}") from error
        return connection

    async def _secure(self, connection: ClientConnection, host: str) -> None:
        """Speak TLS from now on."""
        try:
            connection.transport = await asyncio.get_running_loop().start_tls(  # type: ignore[assignment]
                connection.transport,
                connection,
                self._trust or await self._system_trust(),
                server_hostname=host,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except BaseException as error:
            connection.close(Broken("has no TLS"))
            if isinstance(error, ssl.SSLError | ValueError):
                raise TLSFailed(f"TLS failed: {error}") from error
            if isinstance(error, OSError):
                raise Broken(f"TLS failed: {text_of(error)}") from error
            raise

    async def _system_trust(self) -> ssl.SSLContext:
        """Return the system's authorities, loaded once: that takes some tens of milliseconds."""
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(self._resolvers, certificates.context)
        self._trust = await asyncio.shield(self._loading)
        return self._trust


def _resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name, as the node's resolver has them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Unresolved(text_of(error)) from error
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


async def _open_tunnel(
    connection: ClientConnection, proxy: proxies.Proxy, host: str, port: int
) -> None:
    exchange = Exchange(_Head(0), asyncio.get_running_loop())
    connection.begin(exchange, messages.tunnel_of(host, port, proxy.headers))
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await exchange.outcome
    except TimeoutError as error:
        raise TimedOut(f"the proxy {proxy.url} gave no answer in time") from error
    except RequestFailed as error:
        raise ProxyFailed(f"the proxy {proxy.url} {error}") from error
    connection.detach()
    incoming = exchange.incoming
    if not 200 <= incoming.status < 300:
        said = f"{incoming.status} {incoming.reason}".rstrip()
        raise ProxyFailed(f"the proxy {proxy.url} answered {said} when asked for {host}")


class _Head(BodyBuffer):
    """The body of a response of which only the head is wanted."""

    is_whole = False
