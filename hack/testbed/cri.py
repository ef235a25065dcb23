"""A CRI client like kubelet's: one channel to one socket, with kubelet's options and deadlines.

It handles messages, not pods: `client.call("Version", request, reply_type)`. The options follow
k8s.io/cri-client, pkg/remote_runtime.go: authority `localhost`, messages and metadata of up to
16 MiB, quick reconnection, no retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

UNARY_SECONDS: Final = 120.0  # kubelet's runtimeRequestTimeout
SANDBOX_SECONDS: Final = 240.0  # twice as long for RunPodSandbox

_MEBIBYTE: Final = 1 << 20
_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", 16 * _MEBIBYTE),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 * _MEBIBYTE),
    ("grpc.absolute_max_metadata_size", 16 * _MEBIBYTE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),  # despite its name, the timeout of one attempt
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_IMAGE_METHODS: Final = frozenset(
    ("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo", "StreamImages")
)

Reply = TypeVar("Reply", bound=Message)


class Client:
    """A connection to a CRI socket, the runtime's or a proxy's."""

    def __init__(self, socket: Path) -> None:
        """Open the channel; the connection is made on the first call."""
        self.socket: Final = socket
        self._channel: Final = grpc.insecure_channel(f"unix://{socket}", options=_OPTIONS)

    def call(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        *,
        seconds: float | None = UNARY_SECONDS,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> Reply:
        """Make one unary call; raises grpc.RpcError (which has `code()` and `details()`)."""
        service = "ImageService" if method in _IMAGE_METHODS else "RuntimeService"
        unary = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        answer: Reply = unary(request, timeout=seconds, metadata=tuple(metadata))
        return answer

    def close(self) -> None:
        """Close the channel; its pending calls are cancelled."""
        self._channel.close()
