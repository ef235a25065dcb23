"""The placeholder image: what a container's file system holds besides its environment.

A pod that runs in an environment needs no image, but the CRI insists on one. This one is an OCI
image of a few kilobytes, made here of nothing else than this file, byte for byte the same on every
node: one index for both architectures, so that its digest may be written in a pod.

    index ── manifest ── config     for amd64, and the same for arm64
                  └───── layer      of both: what programs expect to find wherever they run

The layer has places to write (/tmp, /var/tmp, homes of root and nobody), /run, and the tables by
which a C library knows users, groups and hosts. It has no program, so the image names none to run.

Sources of the forms: the OCI image specification 1.1, and POSIX's ustar for the layer, which is not
compressed: compressors do not promise the same bytes in every version.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ARCHITECTURES: Final = ("amd64", "arm64")
"""Those that environments are locked for, as OCI calls them."""

_OCI: Final = "application/vnd.oci.image."
_EPOCH: Final = "1970-01-01T00:00:00Z"
_NOBODY: Final = 65534
_SHARED: Final = 0o1777

_USERS: Final = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/home/nobody:/bin/sh
"""
_GROUPS: Final = """\
root:x:0:
nobody:x:65534:
"""
# Without it the GNU C library asks DNS alone, and the names in /etc/hosts are not found.
_NAME_SERVICES: Final = """\
passwd: files
group: files
shadow: files
hosts: files dns
"""


@dataclass(frozen=True, slots=True)
class Blob:
    """A piece of an image, with the pieces that it names."""

    media_type: str
    content: bytes
    children: tuple[Blob, ...] = ()

    @property
    def digest(self) -> str:
        """Its name in every registry and content store."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    def walk(self) -> Iterator[Blob]:
        """Yield all blobs below this one and then itself, each once."""
        yield from {blob.digest: blob for blob in self._descend()}.values()

    def _descend(self) -> Iterator[Blob]:
        for child in self.children:
            yield from child._descend()
        yield self


def build() -> Blob:
    """Return the image's index, with everything below it."""
    layer = Blob(f"{_OCI}layer.v1.tar", _layer())
    manifests = tuple(
        _manifest(_config(architecture, layer), layer) for architecture in ARCHITECTURES
    )
    descriptors = [
        {**_descriptor_of(manifest), "platform": {"architecture": architecture, "os": "linux"}}
        for architecture, manifest in zip(ARCHITECTURES, manifests)
    ]
    media_type = f"{_OCI}index.v1+json"
    content = {"schemaVersion": 2, "mediaType": media_type, "manifests": descriptors}
    return Blob(media_type, _json_of(content), manifests)


def _manifest(config: Blob, layer: Blob) -> Blob:
    media_type = f"{_OCI}manifest.v1+json"
    content = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor_of(config),
        "layers": [_descriptor_of(layer)],
    }
    return Blob(media_type, _json_of(content), (config, layer))


def _config(architecture: str, layer: Blob) -> Blob:
    content = {
        "created": _EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Labels": {
                "org.opencontainers.image.description": "placeholder of pods that run in a "
                "FloxHub environment, made by cri-proxy"
            }
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created": _EPOCH, "created_by": "cri-proxy"}],
    }
    return Blob(f"{_OCI}config.v1+json", _json_of(content))


def _layer() -> bytes:
    entries = (
        _directory("etc"),
        _file("etc/group", _GROUPS),
        _file("etc/nsswitch.conf", _NAME_SERVICES),
        _file("etc/passwd", _USERS),
        _directory("home"),
        _directory("home/nobody", 0o700, owner=_NOBODY),
        _directory("root", 0o700),
        _directory("run"),
        _directory("tmp", _SHARED),
        _directory("var"),
        _symlink("var/run", "/run"),
        _directory("var/tmp", _SHARED),
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    # Padded for no tape drive: the last entry's block, then the two empty ones that end an archive.
    written = len(buffer.getvalue().rstrip(b"\0"))
    blocks = -(-written // tarfile.BLOCKSIZE) + 2
    return buffer.getvalue()[: blocks * tarfile.BLOCKSIZE]


def _directory(path: str, mode: int = 0o755, owner: int = 0) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, mode, owner, owner
    return member, b""


def _file(path: str, text: str) -> tuple[tarfile.TarInfo, bytes]:
    member, content = tarfile.TarInfo(path), text.encode()
    member.mode, member.size = 0o644, len(content)
    return member, content


def _symlink(path: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    return member, b""


def _descriptor_of(blob: Blob) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": len(blob.content)}


def _json_of(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
