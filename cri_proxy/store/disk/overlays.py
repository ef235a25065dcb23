"""Overlays: a writable /nix for one container, over a view that it shares with others.

    mutable/<token>/store/         the overlay: the view with this container's changes, mounted at
                                   /nix/store of the container
    mutable/<token>/upper/ work/   the changes, managed by the kernel
    mutable/<token>/nix/           the rest of the container's /nix, empty at first
    mutable/<token>.lock           locked while the container is being created

A file is copied up before it is written to, so neither the view nor the store that it is linked to
ever changes. The directories are writable by all, like /tmp, because a container's user need not be
root. `mutable` itself is accessible to root only, because a container may create anything in it.

The jobs run in workers: `MAKE` mounts one overlay, `REMOVE` unmounts some and deletes what was
written to them. Which ones are in use is decided in the interposer. After a reboot the mounts are
gone, and so are the containers.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable, locks, mounts
from cri_proxy.lib.job import NOTHING, Job, Jobs, Task

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_FOR_ALL: Final = 0o1777
_SMALL_BYTES: Final = 65536
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class OverlayRequest:
    """An overlay to mount over `view`."""

    token: str
    view: Path


MAKE: Final = Job("store.overlay", OverlayRequest, NOTHING, NOTHING)
REMOVE: Final = Job("store.overlays-removed", list[str], NOTHING, NOTHING)
"""The argument is the tokens."""


def jobs(root: Path, runtime: Path) -> Jobs:
    """Return the overlay jobs of the node whose runtime listens at the socket `runtime`."""
    overlays = Overlays(root / "mutable")

    def remove(tokens: list[str], task: Task[None]) -> None:
        for token in tokens:
            overlays.remove(token)

    return Jobs(
        MAKE.run_by(lambda argument, task: overlays.make(argument.token, argument.view, runtime)),
        REMOVE.run_by(remove),
    )


class Overlays:
    """The overlays in `directory`, each named by a token of 32 hexadecimal digits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def locate(self, token: str) -> Path:
        """Return the directory of an overlay; its `store` and `nix` are for the container."""
        assert _TOKEN.fullmatch(token), token
        return self.directory / token

    def hold(self, token: str) -> locks.Lock | None:
        """Lock an overlay; None while another holds it. Raises NodeExhausted on a full disk."""
        with durable.exhaustion_explained(self.directory.parent, "a lock", _SMALL_BYTES):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return locks.file(self.directory / f"{token}.lock")

    def tokens(self) -> frozenset[str]:
        """Return the tokens of all overlays, complete or not."""
        with contextlib.suppress(FileNotFoundError):
            names = {each.name.removesuffix(".lock") for each in self.directory.iterdir()}
            return frozenset(name for name in names if _TOKEN.fullmatch(name))
        return frozenset()

    def make(self, token: str, view: Path, runtime: Path) -> None:
        """Mount a new overlay over `view`, visible to the runtime as well.

        Removes an overlay of the same token first, which a killed worker may have left. Raises
        RequestInvalid if the node does not support it, NodeExhausted if the disk is full.
        """
        place = self.locate(token)
        self.remove(token)
        try:
            with durable.exhaustion_explained(self.directory, "a writable /nix", _SMALL_BYTES):
                for part in ("store", "upper", "work", "nix", "nix/store"):
                    (place / part).mkdir(parents=True)
                for part in ("upper", "nix"):
                    (place / part).chmod(_FOR_ALL)
            _mount(view, place)
            _ensure_seen(place / "store", runtime)
        except BaseException:
            self.remove(token)
            raise

    def remove(self, token: str) -> None:
        """Unmount an overlay, if there is one, and delete what was written to it."""
        place = self.locate(token)
        mounts.detach(place / "store")  # nothing is deleted unless this succeeds
        durable.remove_tree(place)


def _mount(view: Path, place: Path) -> None:
    try:
        mounts.overlay(view, place / "upper", place / "work", place / "store")
    except OSError as error:
        if error.errno == errno.ENOENT and not view.is_dir():
            raise errors.SourceUnreachable(
                f"{view} was removed from this node while a writable /nix was mounted over it: "
                "the next attempt realizes it again"
            ) from error
        raise errors.RequestInvalid(
            f"a writable /nix cannot be mounted in {place.parent} ({error.strerror}): it needs the "
            "kernel's overlay file system, a store.root on a file system that can carry one (not "
            "an overlay itself), and the right to mount; fix the node, or remove nix-mutable from "
            "the pod"
        ) from error


def _ensure_seen(place: Path, runtime: Path) -> None:
    """Raise RequestInvalid if the runtime does not see what is mounted at `place`.

    A runtime in a mount namespace of its own would start the container with an empty directory. If
    the runtime's process is not visible from here, nothing can be checked.
    """
    with contextlib.suppress(OSError, ValueError):
        process = Path(f"/proc/{_server_of(runtime)}")
        seen = process / "root" / str(place).lstrip("/")
        if process.is_dir() and not (seen.exists() and seen.samefile(place)):
            raise errors.RequestInvalid(
                f"the writable /nix mounted at {place} is not visible to the runtime, process "
                f"{process.name}, which is in another mount namespace: run cri-proxy in the "
                "node's own mount namespace, or let its mounts propagate there"
            )


def _server_of(path: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(found)
    if pid <= 0:
        raise ValueError("the process is in another pid namespace")
    return int(pid)
