"""Listening sockets: bound beside their place and renamed into it, or passed in by systemd.

    /run/cri-proxy/cri-proxy.sock             what kubelet connects to
    /run/cri-proxy/.cri-proxy.sock.<pid>      the same before it listens with the right mode
    /run/cri-proxy/cri-proxy.sock.lock        held while a process looks and renames

Whoever finds the socket finds it listening, with the mode and the owner of the runtime's. A rename
is also how a place is taken over: connections of the old process stay with it, new ones come to the
new. A socket file that nobody listens on is replaced; one that somebody does is not, unless asked.
With socket activation systemd keeps the socket, so that a restart refuses no connection.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy.errors import RequestInvalid

BACKLOG: Final = 1024
DEFAULT_MODE: Final = 0o660
LONGEST_PATH: Final = 107
FIRST_INHERITED: Final = 3
"""The first descriptor that systemd passes: sd_listen_fds(3)."""

_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens at a place."""

    socket: socket.socket
    place: Path
    inode: int

    def withdraw(self) -> None:
        """Close the socket and remove its file, unless another process has taken the place."""
        self.socket.close()
        with _lock(self.place):
            try:
                if self.place.lstat().st_ino == self.inode:
                    self.place.unlink()
            except FileNotFoundError:
                return


def listen(place: Path, *, like: Path, is_replacing: bool = False) -> Listener:
    """Return a socket that listens at `place`, with mode and owner of the socket `like`.

    Raises RequestInvalid if a live process has the place and `is_replacing` is not asked, or if
    the place cannot be a socket.
    """
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    if len(os.fsencode(beside)) > LONGEST_PATH:
        raise RequestInvalid(
            f"the socket path {place} is too long: choose one of fewer than "
            f"{LONGEST_PATH - len(beside.name) + len(place.name)} bytes"
        )
    with _lock(place):
        _check(place, is_replacing=is_replacing)
        beside.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(os.fspath(beside))
            _resemble(beside, like)
            listener.listen(BACKLOG)
            inode = beside.lstat().st_ino
            beside.rename(place)
        except BaseException:
            listener.close()
            beside.unlink(missing_ok=True)
            raise
    return Listener(listener, place, inode)


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, none if it passed none.

    Takes their variables out of the environment, so that no child believes them to be its own.
    Raises RequestInvalid if one of them is not a listening unix stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    listeners = []
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        is_right = (
            listener.family == socket.AF_UNIX
            and listener.type == socket.SOCK_STREAM
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
        if not is_right:
            raise RequestInvalid(
                f"descriptor {descriptor} from socket activation is not a listening unix stream "
                "socket: use ListenStream= with an absolute path in the socket unit"
            )
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def is_live(place: Path) -> bool:
    """Return whether a process listens at the place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(place))
        except TimeoutError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return False
            if error.errno == errno.EAGAIN:
                return True
            raise
    return True


def holder(place: Path) -> int | None:
    """Return the process that listens at the place, to be told that it has been replaced.

    None if there is none, if it is this one, or if it is not to be told: a socket of systemd's is
    held by process 1, and one from another PID namespace by nobody who has a number here.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(place))
        except OSError:
            return None
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(raw)
    return pid if pid > 1 and pid != os.getpid() else None


def _check(place: Path, *, is_replacing: bool) -> None:
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RequestInvalid(
            f"{place} exists and is not a socket: remove it, or choose another socket path"
        )
    if not is_replacing and is_live(place):
        raise RequestInvalid(
            f"another process serves {place}: stop it, or take over with --replace"
        )


def _resemble(path: Path, like: Path) -> None:
    try:
        model = like.stat()
    except OSError:
        path.chmod(DEFAULT_MODE)
        return
    if (model.st_uid, model.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(path, model.st_uid, model.st_gid)
    path.chmod(stat.S_IMODE(model.st_mode))


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    with place.with_name(f"{place.name}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
