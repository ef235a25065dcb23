"""The channel to the container runtime, and the gRPC options that a proxy needs at both ends.

gRPC's defaults are meant for services on a network, not for a proxy on a node's socket: they reject
messages above 4 MiB and headers above 8 KiB (the runtime's error messages are sent in headers),
wait up to two minutes before they reconnect to a runtime, and send the percent-encoded path of the
socket as authority. Kubelet and containerd have other limits, and a proxy must not be stricter.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Final

import grpc.aio

# The default of Go's gRPC for a header block, which kubelet and containerd do not change.
_METADATA_BYTES: Final = 16 << 20

LIMITS: Final[tuple[tuple[str, int], ...]] = (
    # Kubelet and the runtime have their own limits; the proxy adds none.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Above the soft limit headers are rejected at random, above the absolute one always.
    ("grpc.max_metadata_size", _METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
)
"""Options of a channel or server that forwards whatever kubelet and the runtime send."""

_CHANNEL: Final[tuple[tuple[str, int | str], ...]] = (
    *LIMITS,
    # As kubelet sends it. C-core's default, the encoded path, is rejected by strict HTTP/2 stacks.
    ("grpc.default_authority", "localhost"),
    # A call sent twice could create a container twice.
    ("grpc.enable_retries", 0),
    # Reconnect within about a second after the runtime is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, the timeout of one attempt to connect; the same as kubelet's.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Otherwise two channels of a process to one socket share a connection and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A socket path has no service configuration in DNS.
    ("grpc.service_config_disable_resolution", 1),
)


def dial(socket: Path) -> grpc.aio.Channel:
    """Return a channel to the runtime at `socket`; it connects with the first call.

    Must be called on the event loop. While nothing listens at `socket`, calls fail with UNAVAILABLE
    at once, as kubelet's own do.
    """
    return grpc.aio.insecure_channel(address_of(socket), options=_CHANNEL)


def address_of(socket: Path) -> str:
    """Return the gRPC target of a unix socket: a URI, so what a URI reserves is escaped."""
    return f"unix:{urllib.parse.quote(str(socket))}"
