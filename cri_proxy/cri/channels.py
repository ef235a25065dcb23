"""The channel to the container runtime, and the gRPC options that a relay needs at both ends.

gRPC's defaults are made for services on a network, not for a proxy on a node's socket: they refuse
messages above 4 MiB and headers above 8 KiB (the runtime's error messages travel in headers), wait
up to two minutes before trying a runtime again that was away, and call the peer by its socket's
percent-encoded path. Kubelet and containerd have other limits, and a proxy must not be stricter
than they are.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Final

import grpc.aio

# Go's gRPC takes as much in one header block, and kubelet and containerd leave it at that.
_METADATA_BYTES: Final = 16 << 20

LIMITS: Final[tuple[tuple[str, int], ...]] = (
    # Kubelet and the runtime refuse what is too long for them; the proxy has no opinion.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Above the soft limit headers are refused at random, above the absolute one always.
    ("grpc.max_metadata_size", _METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
)
"""Options of a channel or server that carries whatever the CRI's two sides send each other."""

_CHANNEL: Final[tuple[tuple[str, int | str], ...]] = (
    *LIMITS,
    # As kubelet says it. C-core's own choice, the encoded path, is refused by strict HTTP/2 stacks.
    ("grpc.default_authority", "localhost"),
    # A call sent twice could make a container twice.
    ("grpc.enable_retries", 0),
    # Back at work within about a second after the runtime is.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long one attempt to connect may last (not, as it is called, a pause); as kubelet's.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Otherwise two channels of a process to one socket share a connection, and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # There is no name to look up, so no one to ask for a service configuration.
    ("grpc.service_config_disable_resolution", 1),
)


def dial(socket: Path) -> grpc.aio.Channel:
    """Return a channel to the runtime at `socket`; it connects with the first call.

    Must be called on the event loop. While nobody listens at `socket` calls fail with UNAVAILABLE
    at once, as kubelet's own do.
    """
    return grpc.aio.insecure_channel(address_of(socket), options=_CHANNEL)


def address_of(socket: Path) -> str:
    """Return the gRPC target of a unix socket: a URI, so what a URI reserves is escaped."""
    return f"unix:{urllib.parse.quote(str(socket))}"
