"""Tokens: how a pod proves to FloxHub that a private environment is meant for it.

A pod mounts a Secret with the key `floxhub-token` at /var/run/secrets/flox.dev, the place that Flox
documents. kubelet has laid the Secret on the node's disk before it asks for the container, and the
container's mounts say where. A pod that mounts nothing there is given the node's own token, if the
settings name one; a pod that mounts a token is judged by that one alone. At RunPodSandbox, before
any mount is known, the pod's own volumes are a good guess: good enough to begin early, never to
authorize.

A token is read when it is needed, so that a renewed Secret counts at once. It lives in memory for
the length of a realization and stands in no argument list, log line, span, error or file of ours.

A pod chooses what it mounts, and may have filled it with links to other files of the node, or
change it while we look. So a file is first opened as a mere place (O_PATH), which touches neither
device nor pipe, and is read only if the place that was really opened is a regular file inside the
mounted directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.telemetry import logs

MOUNT: Final = "/var/run/secrets/flox.dev"
FILE: Final = "floxhub-token"
_PLACES: Final = (MOUNT, MOUNT.removeprefix("/var"))  # /var/run is a link to /run in most images
_LAID_BY_KUBELET: Final = ("kubernetes.io~secret", "kubernetes.io~projected")
_LARGEST: Final = 65536
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_POD_UID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_log = logs.of(__name__)


class Tokens:
    """The tokens of one node's pods."""

    def __init__(self, kubelet_root: Path, token_file: Path | None) -> None:
        self._kubelet_root = kubelet_root
        self._token_file = token_file

    async def of_container(self, mounts: Sequence[api_pb2.Mount]) -> str | None:
        """Return the token that goes with a container, None when there is none.

        Raises RequestInvalid when the container mounts something that holds no token. The mount
        may be a network file system that never answers, so it is read off the event loop; the
        caller's deadline ends the wait.
        """
        own = await asyncio.to_thread(of_mounts, mounts)
        return own if own is not None else self._of_node()

    def of_pod(self, pod_uid: str) -> str | None:
        """Return the token that the pod's containers will probably bring."""
        own = of_volumes(self._kubelet_root, pod_uid)
        return own if own is not None else self._of_node()

    def _of_node(self) -> str | None:
        """Return the node's token; without it pods of public environments start all the same."""
        if self._token_file is None:
            return None
        try:
            return of_node(self._token_file)
        except errors.RequestInvalid as error:
            _log.warning("node has no token for private environments", why=error)
            return None


def of_mounts(mounts: Iterable[api_pb2.Mount]) -> str | None:
    """Return the token that a container's mounts hold, None when it mounts none.

    Raises RequestInvalid when there is a mount but no readable token in it.
    """
    for mount in mounts:
        place = os.path.normpath(mount.container_path)
        host = Path(mount.host_path)
        if place in _PLACES:
            return _read(host / FILE, host)
        if os.path.dirname(place) in _PLACES and os.path.basename(place) == FILE:  # noqa: PTH119, PTH120 - of the container
            return _read(host, host.parent)
    return None


def of_volumes(kubelet_root: Path, pod_uid: str) -> str | None:
    """Return the token found among a pod's volumes on disk, None when there is none or a doubt."""
    if not _POD_UID.fullmatch(pod_uid):
        return None
    volumes = kubelet_root / "pods" / pod_uid / "volumes"
    for kind in _LAID_BY_KUBELET:
        for found in sorted(volumes.glob(f"{kind}/*/{FILE}")):
            try:
                return _read(found, found.parent)
            except errors.RequestInvalid:
                return None
    return None


def of_node(path: Path) -> str:
    """Return the node-wide token of the settings; raise RequestInvalid when it cannot be read."""
    try:
        with _opened(path) as (descriptor, _):
            data = _bytes_of(descriptor)
    except OSError as error:
        raise errors.RequestInvalid(
            f"{path}, the setting floxhub.token_file, cannot be read ({error.strerror}): write a "
            "FloxHub token there, or take the setting away"
        ) from error
    token = None if data is None else _token_of(data)
    if token is None:
        raise errors.RequestInvalid(
            f"{path}, the setting floxhub.token_file, holds no token: write one line there, as "
            "`flox auth token` prints it"
        )
    return token


def _read(path: Path, inside: Path) -> str:
    """Return the token in `path`, which must really lie inside the directory `inside`."""
    try:
        with _opened(inside) as (_, directory), _opened(path) as (descriptor, place):
            if directory not in place.parents:
                raise errors.RequestInvalid(
                    f"the file {FILE} mounted at {MOUNT} is a link that leads out of its volume: "
                    f"mount a Secret with the key {FILE} itself"
                )
            data = _bytes_of(descriptor)
    except OSError as error:
        raise errors.RequestInvalid(
            f"the pod mounts {MOUNT} but its file {FILE} cannot be read ({error.strerror}): "
            f"give the Secret the key {FILE}"
        ) from error
    if data is None:
        raise errors.RequestInvalid(
            f"the file {FILE} mounted at {MOUNT} is not a regular file: mount a Secret with the "
            f"key {FILE}"
        )
    token = _token_of(data)
    if token is None:
        raise errors.RequestInvalid(
            f"the file {FILE} mounted at {MOUNT} holds no token: put one line into the Secret, as "
            "`flox auth token` prints it"
        )
    return token


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, Path]]:
    """Open a place without reading it; give its descriptor and where it really is."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor, _link_of(descriptor).readlink()
    finally:
        os.close(descriptor)


def _bytes_of(descriptor: int) -> bytes | None:
    """Return what an opened place holds, None when it is no regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    with _link_of(descriptor).open("rb") as file:
        return file.read(_LARGEST + 1)


def _link_of(descriptor: int) -> Path:
    """Return the link by which the kernel says what an open descriptor is."""
    return Path(f"/proc/self/fd/{descriptor}")


def _token_of(data: bytes) -> str | None:
    """Return the one line in `data`, None when it is no token."""
    text = data.decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None
