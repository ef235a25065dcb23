"""Importing an image into containerd without a registry: blobs first, then the image names.

 1. A lease protects blobs that no image refers to yet from garbage collection. It expires if we
    are interrupted.
 2. Every blob is written, children first, and labelled with the digests that it refers to: from
    these labels containerd knows what an image consists of.
 3. The names are created. From then on they protect the content, and containerd's CRI adopts the
    image as it does with any other new image (of `ctr images import`, for example): it assigns the
    id and marks the image as its own. That takes a moment; waiting for it is up to the caller.
 4. The lease is deleted.

Blobs and names that already exist are kept, so an import may be repeated or interrupted at any
point. All of this is in the namespace of the CRI.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from cri_proxy import errors
from cri_proxy.containerd import api_pb2
from cri_proxy.model.placeholder import Blob

# Kubelet gives a pull no deadline. A write waits for the disk, which took more than ten seconds on
# a node where 110 pods were created at once; after a timeout the image would be pulled instead.
ANSWER_SECONDS: Final = 120.0
LEASE_SECONDS: Final = 300

_CREATE_LEASE: Final = "/containerd.services.leases.v1.Leases/Create"
_DELETE_LEASE: Final = "/containerd.services.leases.v1.Leases/Delete"
_WRITE: Final = "/containerd.services.content.v1.Content/Write"
_CREATE_IMAGE: Final = "/containerd.services.images.v1.Images/Create"

_Metadata = tuple[tuple[str, str], ...]
_NAMESPACE: Final[_Metadata] = (("containerd-namespace", "k8s.io"),)
_EXPIRY_LABEL: Final = "containerd.io/gc.expire"
_CHILD_LABEL: Final = "containerd.io/gc.ref.content."


@dataclass(frozen=True, slots=True)
class Images:
    """containerd's images, behind the channel on which it serves the CRI."""

    _channel: grpc.aio.Channel

    async def add(self, names: Sequence[str], root: Blob) -> None:
        """Import the image with the index `root` under fully qualified `names`, in that order.

        Raises RequestInvalid if the runtime is not containerd, SourceUnreachable if it fails or
        does not answer.
        """
        lease = f"cri-proxy-{secrets.token_hex(8)}"
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=LEASE_SECONDS)
        labels = {_EXPIRY_LABEL: expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}  # RFC 3339
        request = api_pb2.CreateLeaseRequest(id=lease, labels=labels)
        await self._call(_CREATE_LEASE, request, _NAMESPACE)
        try:
            metadata = (*_NAMESPACE, ("containerd-lease", lease))
            for blob in root.walk():
                await self._write(blob, metadata)
            target = api_pb2.Descriptor(
                media_type=root.media_type, digest=root.digest, size=len(root.content)
            )
            for name in names:
                image = api_pb2.Image(name=name, target=target)
                await self._call(_CREATE_IMAGE, api_pb2.CreateImageRequest(image=image), metadata)
        finally:
            await self._call(_DELETE_LEASE, api_pb2.DeleteLeaseRequest(id=lease), _NAMESPACE)

    async def _write(self, blob: Blob, metadata: _Metadata) -> None:
        """Write a blob in a single message of the upload stream."""
        request = api_pb2.WriteContentRequest(
            action=api_pb2.COMMIT,
            ref=f"cri-proxy-{blob.digest}",
            total=len(blob.content),
            expected=blob.digest,
            data=blob.content,
            labels={f"{_CHILD_LABEL}{n}": each.digest for n, each in enumerate(blob.children)},
        )
        await self._call(_WRITE, request, metadata)

    async def _call(self, path: str, request: Message, metadata: _Metadata) -> None:
        """Make one call and ignore its response, and the failure ALREADY_EXISTS.

        A write has one or two responses, depending on containerd's version, so all responses are
        received as streams. Source of the metadata's keys: containerd, pkg/namespaces, leases.
        """
        call = self._channel.unary_stream(path, None, None)
        try:
            async for _ in call(
                request.SerializeToString(), timeout=ANSWER_SECONDS, metadata=metadata
            ):
                pass
        except grpc.aio.AioRpcError as failure:
            said = f"({failure.code().name}: {failure.details() or 'no details'})"
            if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise errors.RequestInvalid(
                    f"the runtime does not serve containerd's API {said}"
                ) from failure
            if failure.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise errors.SourceUnreachable(
                    f"containerd failed {path} {said}: check that it is running and healthy"
                ) from failure
