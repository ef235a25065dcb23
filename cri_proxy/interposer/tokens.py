"""Tokens: how a pod proves to FloxHub that a private environment is meant for it.

A pod mounts a Secret with the key `floxhub-token` at /var/run/secrets/flox.dev. kubelet has laid
the Secret on the node's disk before it asks for the container, and the container's mounts say
where; at RunPodSandbox, before any mount is known, the pod's own volumes are a good guess, good
enough to begin early and never to authorize. A token lives in memory for the length of a
call and stands in no argument list, log line, span or error.

The place is the one that Flox documents for private environments. A pod chooses what it mounts
there, so the file is read only if it is a regular file that really lies inside the mounted
directory: a symbolic link out of it would hand us another file of the node.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2

MOUNT: Final = "/var/run/secrets/flox.dev"
FILE: Final = "floxhub-token"
_LARGEST: Final = 65536
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")


def of_mounts(mounts: Iterable[api_pb2.Mount]) -> str | None:
    """Return the token that a container's mounts hold, None when it mounts none.

    Raises RequestInvalid when there is a mount but no readable token in it.
    """
    for mount in mounts:
        place = os.path.normpath(mount.container_path)
        if place in {MOUNT, f"/run{MOUNT.removeprefix('/var/run')}"}:
            return _of_directory(Path(mount.host_path))
        if place == f"{MOUNT}/{FILE}":
            return _of_file(Path(mount.host_path), Path(mount.host_path).parent)
    return None


def of_volumes(kubelet_root: Path, pod_uid: str) -> str | None:
    """Return the token found among a pod's volumes on disk, None when there is none or a doubt."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", pod_uid):
        return None
    volumes = kubelet_root / "pods" / pod_uid / "volumes"
    for kind in ("kubernetes.io~secret", "kubernetes.io~projected"):
        for found in sorted(volumes.glob(f"{kind}/*/{FILE}")):
            try:
                return _of_file(found, found.parent)
            except errors.RequestInvalid:
                return None
    return None


def of_node(path: Path) -> str:
    """Return the node-wide token of the settings; raise RequestInvalid when it cannot be read."""
    return _of_file(path, path.resolve().parent)


def _of_directory(directory: Path) -> str:
    """Return the token in a mounted Secret's directory."""
    return _of_file(directory / FILE, directory)


def _of_file(path: Path, inside: Path) -> str:
    """Return the token in `path`, which must be a regular file within the directory `inside`."""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(inside.resolve(strict=True)):
            raise errors.RequestInvalid(
                f"the file {FILE} mounted at {MOUNT} is a link that leads out of its volume: "
                "mount the Secret itself"
            )
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise errors.RequestInvalid(f"the file {FILE} at {MOUNT} is not a regular file")
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise errors.RequestInvalid(
            f"the pod mounts {MOUNT} but its file {FILE} cannot be read ({error.strerror}): "
            f"give the Secret the key {FILE}"
        ) from error
    text = data.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise errors.RequestInvalid(
            f"the file {FILE} at {MOUNT} holds no token: one line of printable characters"
        )
    return text
