"""Container images built locally, so that no test needs a registry.

Each is written reproducibly as a tar of an OCI image layout, the format of `ctr images import`. The
only program in them is the machine's static busybox.

    PAUSE     the image of sandboxes: sleeps
    EMPTY     no file, no entrypoint
    BUSYBOX   a small Linux: all of busybox, users root and app (1000), Cmd is a shell
    DRESSED   BUSYBOX with everything a pod can inherit: Entrypoint, Cmd, Env, User, WorkingDir

PLACEHOLDER is not among them: pods with an environment use it, and the proxy supplies it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAUSE: Final = "docker.io/cri-proxy/pause:1"
EMPTY: Final = "docker.io/cri-proxy/empty:1"
BUSYBOX: Final = "docker.io/library/busybox:1"
DRESSED: Final = "docker.io/library/busybox-dressed:1"
PLACEHOLDER: Final = "flox/empty:1.0.0"

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PROGRAM_HEADER_INTERPRETER: Final = 3
_SEARCHED: Final = "/bin:/usr/bin:/sbin:/usr/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: its fully qualified name, its layers (tar archives) and its run configuration."""

    name: str
    layers: tuple[bytes, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """An entry of a layer: a symlink if it has a target, a directory if its mode says so."""

    content: bytes = b""
    mode: int = 0o644
    owner: int = 0
    target: str = ""


def of_testbed() -> tuple[Image, ...]:
    """Return the four images that the testbed's pods use."""
    busybox = layer(busybox_files())
    pause = layer({"bin/busybox": File(_static_busybox_content(), 0o755)})
    return (
        Image(name=PAUSE, layers=(pause,), entrypoint=("/bin/busybox", "sleep", "2147483647")),
        Image(name=EMPTY, layers=(layer({}),)),
        Image(name=BUSYBOX, layers=(busybox,), cmd=("sh",), env=("PATH=/bin",)),
        Image(
            name=DRESSED,
            layers=(busybox,),
            entrypoint=("/bin/echo", "entrypoint"),
            cmd=("cmd",),
            env=("PATH=/srv/bin:/bin", "FROM_IMAGE=yes"),
            user="app",
            working_dir="/srv",
        ),
    )


def layer(files: Mapping[str, File]) -> bytes:
    """Return a layer's tar archive; keys are paths without leading slash, parents are not added."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, file in files.items():
            member = tarfile.TarInfo(path)
            member.mode = file.mode & 0o7777
            member.uid = member.gid = file.owner
            member.size = len(file.content)
            if file.target:
                member.type, member.linkname = tarfile.SYMTYPE, file.target
            elif file.mode & 0o40000:
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def write(image: Image, tar: Path) -> None:
    """Write the image as a tar of an OCI image layout.

    See https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md; the name is in the
    annotation that containerd reads, `io.containerd.image.name`.
    """
    blobs = [configuration_of(image), *image.layers]
    descriptors = [
        _descriptor_of(blob, f"application/vnd.oci.image.{kind}")
        for blob, kind in zip(blobs, ["config.v1+json", *["layer.v1.tar"] * len(image.layers)])
    ]
    manifest = _json_of(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptors[0],
            "layers": descriptors[1:],
        }
    )
    entry = _descriptor_of(manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    contents = {
        "oci-layout": File(_json_of({"imageLayoutVersion": "1.0.0"})),
        "index.json": File(_json_of(index)),
    }
    for blob in {*blobs, manifest}:
        contents[f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"] = File(blob)
    tar.write_bytes(layer(dict(sorted(contents.items()))))


def configuration_of(image: Image) -> bytes:
    """Return the image's configuration: how to run it, and the digests of its layers."""
    return _json_of(
        {
            "created": "1970-01-01T00:00:00Z",
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": _run_settings_of(image),
            "rootfs": {"type": "layers", "diff_ids": [_digest_of(each) for each in image.layers]},
        }
    )


def busybox_files() -> dict[str, File]:
    """Return the files of BUSYBOX, for images that add others."""
    busybox = static_busybox()
    assert busybox is not None
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = [name for name in listing.stdout.split() if name != "busybox"]
    directory, shared = File(mode=0o40755), File(mode=0o41777)
    return {
        "bin": directory,
        "bin/busybox": File(_static_busybox_content(), 0o755),
        **{f"bin/{name}": File(target="busybox") for name in applets},
        "etc": directory,
        "etc/passwd": File(b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
        "etc/group": File(b"root:x:0:\napp:x:1000:\n"),
        "home": directory,
        "home/app": File(mode=0o40755, owner=1000),
        "root": File(mode=0o40700),
        "srv": directory,
        "tmp": shared,
    }


def static_busybox() -> Path | None:
    """Return a statically linked busybox, or None."""
    found = shutil.which("busybox", path=_SEARCHED)
    return Path(found) if found is not None and _is_static(Path(found)) else None


def _run_settings_of(image: Image) -> dict[str, object]:
    settings = {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Env": list(image.env),
        "User": image.user,
        "WorkingDir": image.working_dir,
    }
    return {key: value for key, value in settings.items() if value}


def _static_busybox_content() -> bytes:
    busybox = static_busybox()
    if busybox is None:
        raise RuntimeError("no statically linked busybox: run hack/prerequisites.sh test")
    return busybox.read_bytes()


def _is_static(program: Path) -> bool:
    """Return whether no program header of a (64-bit, little-endian) ELF file has an interpreter."""
    with program.open("rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            return False
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, each * size)[0] for each in range(count)]
    return _PROGRAM_HEADER_INTERPRETER not in kinds


def _descriptor_of(blob: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest_of(blob), "size": len(blob)}


def _digest_of(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json_of(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
