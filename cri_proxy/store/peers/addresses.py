"""Addresses of peers: which there are, which of them is this node, and which tracks a path.

The names in the settings (usually one headless Service) are looked up every few seconds, in the
background: only the first caller waits for DNS. If a lookup fails, the known addresses stay. An
address is text, `host:port` as in a URL.

A path's tracker is the peer whose address has the highest digest together with the path's own
(rendezvous hashing): nodes that know the same addresses agree without asking each other, and when a
node comes or goes, only the paths that it tracks move.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from cri_proxy.telemetry import logs

FRESH_SECONDS: Final = 10.0
FIRST_SECONDS: Final = 2.0
"""How long the first caller waits for DNS."""

DEFAULT_PORT: Final = 9465
_log = logs.of(__name__)


def ranked(digest: str, addresses: Iterable[str]) -> Sequence[str]:
    """Return the addresses in the order in which they track a store path's digest."""
    return sorted(
        addresses,
        key=lambda each: hashlib.sha256(f"{digest} {each}".encode()).digest(),
        reverse=True,
    )


def split(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Return host and port of `host`, `host:port`, `[v6]` or `[v6]:port`."""
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        return text.strip("[]"), default_port
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """Return the address of a host's IP and a port; an IPv4 address in IPv6's form is IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"[{address}]:{port}"
        address = address.ipv4_mapped
    return f"{address}:{port}"


class Addresses:
    """The peers behind `names`; `listen` is where this node itself listens, empty for nowhere.

    Safe for threads.
    """

    def __init__(self, names: Sequence[str], listen: str) -> None:
        self.names = tuple(names)
        self._listen = split(listen) if listen else None
        self._port = self._listen[1] if self._listen else DEFAULT_PORT
        self._known: tuple[str, ...] = ()
        self._own: str | None = None
        self._due = 0.0
        self._looking = threading.Lock()
        self._found = threading.Event()

    @property
    def all(self) -> tuple[str, ...]:
        """The addresses of all peers, this node's own among them if the names lead to it."""
        self._refresh()
        return self._known

    @property
    def own(self) -> str | None:
        """This node's own address, as the others find it; None if the names do not lead here."""
        self._refresh()
        return self._own

    @property
    def source(self) -> tuple[str, int] | None:
        """The address to connect from: peers know this node by the address that it listens on."""
        if self._listen is None or ipaddress.ip_address(self._listen[0]).is_unspecified:
            return None
        return (self._listen[0], 0)

    def _refresh(self) -> None:
        """Look the names up in the background, if the last lookup was some time ago."""
        if self.names and time.monotonic() >= self._due and self._looking.acquire(blocking=False):
            self._due = time.monotonic() + FRESH_SECONDS
            threading.Thread(target=self._look_up, name="peers", daemon=True).start()
        if not self._found.is_set() and self.names:
            self._found.wait(FIRST_SECONDS)

    def _look_up(self) -> None:
        try:
            found: set[str] = set()
            for name in self.names:
                host, port = split(name, self._port)
                answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.update(joined(str(each[4][0]), port) for each in answers)
            self._own = next((each for each in sorted(found) if self._is_own(each)), None)
            self._known = tuple(sorted(found))
        except OSError as error:
            _log.info("lookup of peers failed, the known ones stay", why=error)
        finally:
            self._found.set()
            self._looking.release()

    def _is_own(self, address: str) -> bool:
        """Whether this node listens there: on that address, or on all and it has that one."""
        host, port = split(address)
        if self._listen is None or port != self._listen[1]:
            return False
        if not ipaddress.ip_address(self._listen[0]).is_unspecified:
            return joined(*self._listen) == address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
            return True
        return False
