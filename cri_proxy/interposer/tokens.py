"""FloxHub tokens of pods: what authorizes a pod to get a private environment.

A pod mounts a Secret with the key `floxhub-token` at /var/run/secrets/flox.dev, the path that Flox
documents. kubelet writes the Secret to the node's disk before it creates the container, and the
container's mounts say where. A pod without that mount gets the node's own token, if the settings
name one; for a pod with the mount only its own token counts. At RunPodSandbox, before any mount is
known, the token is guessed from the pod's volumes: good enough to start early, never to authorize.

A token is read when it is needed, so that a renewed Secret takes effect at once. It is in no
argument list, log line, span, error or file of ours.

A pod chooses what it mounts, and may have filled it with links to other files of the node, or may
change it concurrently. So a file is first opened with O_PATH, which has no effect on devices and
pipes, and is read only if what was actually opened is a regular file inside the mounted directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.telemetry import logs

MOUNT: Final = "/var/run/secrets/flox.dev"
FILE: Final = "floxhub-token"
_PLACES: Final = (MOUNT, MOUNT.removeprefix("/var"))  # /var/run is a link to /run in most images
_VOLUME_KINDS: Final = ("kubernetes.io~secret", "kubernetes.io~projected")
_LARGEST: Final = 65536
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_POD_UID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_log = logs.of(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of the node's pods."""

    _kubelet_root: Path
    _token_file: Path | None

    async def of_container(self, mounts: Sequence[api_pb2.Mount]) -> str | None:
        """Return the token for a container, None if there is none.

        Raises RequestInvalid if the container mounts something that contains no token. The mount
        may be a network file system that never answers, so it is read outside of the event loop;
        the caller's deadline ends the wait.
        """
        own = await asyncio.to_thread(of_mounts, mounts)
        return own if own is not None else self._of_node()

    def of_pod(self, pod_uid: str) -> str | None:
        """Return the token that the pod's containers will probably mount."""
        own = of_volumes(self._kubelet_root, pod_uid)
        return own if own is not None else self._of_node()

    def _of_node(self) -> str | None:
        """Return the node's token, None if it cannot be read: public environments need none."""
        if self._token_file is None:
            return None
        try:
            return of_node(self._token_file)
        except errors.RequestInvalid as error:
            _log.warning("cannot read the node's token for private environments", why=error)
            return None


def of_mounts(mounts: Iterable[api_pb2.Mount]) -> str | None:
    """Return the mounted token, None without such a mount; raise RequestInvalid if unreadable."""
    for mount in mounts:
        place = os.path.normpath(mount.container_path)
        host = Path(mount.host_path)
        if place in _PLACES:
            return _read(host / FILE, host)
        if os.path.dirname(place) in _PLACES and os.path.basename(place) == FILE:  # noqa: PTH119, PTH120 - of the container
            return _read(host, host.parent)
    return None


def of_volumes(kubelet_root: Path, pod_uid: str) -> str | None:
    """Return the token in a pod's volumes on disk, None if there is none or it cannot be read."""
    if not _POD_UID.fullmatch(pod_uid):
        return None
    volumes = kubelet_root / "pods" / pod_uid / "volumes"
    for kind in _VOLUME_KINDS:
        for found in sorted(volumes.glob(f"{kind}/*/{FILE}")):
            try:
                return _read(found, found.parent)
            except errors.RequestInvalid:
                return None
    return None


def of_node(path: Path) -> str:
    """Return the node-wide token of the settings; raise RequestInvalid if it cannot be read."""
    named = f"{path}, the setting floxhub.token_file,"
    try:
        with _opened(path) as (descriptor, _):
            token = _token_of(_bytes_of(descriptor) or b"")
    except OSError as error:
        raise errors.RequestInvalid(
            f"{named} cannot be read ({error.strerror}): write a FloxHub token to it"
        ) from error
    if token is None:
        raise errors.RequestInvalid(
            f"{named} contains no token: write the output of `flox auth token` to it"
        )
    return token


def _read(path: Path, inside: Path) -> str:
    """Return the token in `path`, which must be inside the directory `inside` after resolution."""
    named, advice = f"the file {FILE} mounted at {MOUNT}", f"mount a Secret with the key {FILE}"
    try:
        with _opened(inside) as (_, directory), _opened(path) as (descriptor, place):
            if directory not in place.parents:
                raise errors.RequestInvalid(
                    f"{named} is a link to a file outside its volume: {advice}"
                )
            data = _bytes_of(descriptor)
    except OSError as error:
        raise errors.RequestInvalid(
            f"{named} cannot be read ({error.strerror}): add the key {FILE} to the Secret"
        ) from error
    if data is None:
        raise errors.RequestInvalid(f"{named} is not a regular file: {advice}")
    token = _token_of(data)
    if token is None:
        raise errors.RequestInvalid(
            f"{named} contains no token: store the output of `flox auth token` in the Secret"
        )
    return token


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, Path]]:
    """Open a path without reading it; yield its descriptor and its resolved path."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor, Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)


def _bytes_of(descriptor: int) -> bytes | None:
    """Return the content behind an O_PATH descriptor, None if it is not a regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - not a file's path
        return file.read(_LARGEST + 1)


def _token_of(data: bytes) -> str | None:
    """Return the single line in `data`, None if it is not a token."""
    text = data.decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None
