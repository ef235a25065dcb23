"""Listening unix sockets that appear atomically, and can be taken over from a running process.

A server binds to a temporary name in the same directory; then the socket gets the mode and owner of
the runtime's socket and is renamed into place. So the proxy is open to the same users as the
runtime, and a socket file left by a dead proxy is replaced. Renaming also takes over a place: the
old process keeps its connections, new ones reach the new process. The old process detects by itself
that another socket is in its place (`Taken.is_lost`), even from another container, and does not
remove that socket when it exits.

    /run/cri-proxy/
      cri-proxy.sock            the place
      cri-proxy.sock.3f2a1c     staged, between bind and rename
      cri-proxy.sock.lock       locked meanwhile, so that only one of two starting proxies succeeds

A place with a listener is refused unless it is to be replaced, and even then if the listener was
never a proxy: a proxy's place has a lock file. The remaining risk is a listener other than a proxy
that binds between the check and the rename.

With socket activation, systemd holds the socket and passes it in (`inherited`): no connection is
refused during a restart, and no place is taken.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import locks

PATH_BYTES: Final = 107
"""The longest path of a unix socket: sun_path of unix(7), less its final zero."""
BACKLOG: Final = 1024
FIRST_INHERITED: Final = 3
"""The first descriptor that systemd passes: sd_listen_fds(3)."""

_SUFFIX_BYTES: Final = 3
_SYSTEMD: Final = 1
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Access:
    """Permission bits, owner and group of a socket: who may connect."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A place and the inode of the socket that was put there.

    The inode is not reused while the socket is open.
    """

    place: Path
    inode: int

    def is_lost(self) -> bool:
        """Return whether another socket is there; an empty place is not lost."""
        try:
            return self.place.lstat().st_ino != self.inode
        except OSError:
            return False

    def withdraw(self) -> None:
        """Remove the file, unless another socket is there."""
        with _lock(self.place, is_waiting=True), suppress(FileNotFoundError):
            if self.place.lstat().st_ino == self.inode:
                self.place.unlink()


@dataclass(frozen=True, slots=True)
class Staged:
    """The temporary name to bind to, and the place that it is renamed to."""

    name: Path
    place: Path

    def taken(self) -> Taken:
        """Return the place with the socket that is bound to the temporary name."""
        return Taken(self.place, self.name.lstat().st_ino)


def access_of(path: Path) -> Access:
    """Return the access of the socket at `path`, or 0660 for this user if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return Access(0o660, os.geteuid(), os.getegid())
    return Access(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


@contextmanager
def staged(place: Path, access: Access, *, is_replacing: bool = False) -> Iterator[Staged]:
    """Yield a temporary name to bind to; on exit, the socket bound there is renamed to `place`.

    Creates the directory of `place`. Raises RequestInvalid if the path is too long, if it is a file
    other than a socket, or if it has a listener that must not be replaced. If the body raises, the
    place stays as it was.
    """
    name = place.with_name(f"{place.name}.{secrets.token_hex(_SUFFIX_BYTES)}")
    excess = len(os.fsencode(name)) - PATH_BYTES
    if excess > 0:
        raise errors.RequestInvalid(
            f"the socket path {place} is {excess} bytes too long: the temporary name that it is "
            f"bound under must fit into {PATH_BYTES} bytes"
        )
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        was_ours = _lock_of(place).exists()
        with _lock(place):
            _check_free(place, is_replacing=is_replacing, was_ours=was_ours)
            try:
                yield Staged(name, place)
                _grant(name, access)
                name.rename(place)
            finally:
                name.unlink(missing_ok=True)
    except OSError as failure:
        raise errors.RequestInvalid(
            f"cannot listen at {place}: {failure.strerror or failure}; "
            "check the path and that cri-proxy runs as root"
        ) from failure


@contextmanager
def listening(
    place: Path, access: Access, *, is_replacing: bool = False
) -> Iterator[tuple[socket.socket, Taken]]:
    """Yield a listening socket that is put into `place` on exit, as by `staged`.

    If the body raises, the socket is closed, and the place stays as it was.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with staged(place, access, is_replacing=is_replacing) as stage:
            listener.bind(os.fsencode(stage.name))
            listener.listen(BACKLOG)
            yield listener, stage.taken()
    except BaseException:
        listener.close()
        raise


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, if any.

    Removes their variables from the environment, so that child processes do not see them. Raises
    RequestInvalid if one of them is not a listening unix stream socket.
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
            raise errors.RequestInvalid(
                f"descriptor {descriptor} from socket activation is not a listening unix stream "
                "socket: use ListenStream= with an absolute path in the socket unit"
            )
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


@contextmanager
def _lock(place: Path, *, is_waiting: bool = False) -> Iterator[None]:
    """Keep other proxies from taking the same place in the body."""
    lock = locks.file(_lock_of(place), is_waiting=is_waiting, is_kept=True)
    if lock is None:
        raise errors.RequestInvalid(f"another cri-proxy is starting at {place}: stop one of them")
    try:
        yield
    finally:
        lock.release()


def _check_free(place: Path, *, is_replacing: bool, was_ours: bool) -> None:
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.RequestInvalid(
            f"{place} exists and is not a socket: remove or rename it, or set another socket path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # with a full backlog, connecting would block
        holder = 0
        try:
            probe.connect(os.fsencode(place))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            # The process id is 0 if the listener is in a PID namespace that is not visible here.
            holder, _, _ = _CREDENTIALS.unpack(raw)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass
    who = f"process {holder}" if holder else "another process"
    if not is_replacing:
        raise errors.RequestInvalid(
            f"{who} is listening at {place}: stop that cri-proxy, take over from it with "
            "--replace, or set another socket path"
        )
    if holder == _SYSTEMD and os.getpid() != _SYSTEMD:
        raise errors.RequestInvalid(
            f"systemd is listening at {place} and would not notice another socket there: restart "
            "the service of its socket unit without --replace"
        )
    if not was_ours:
        raise errors.RequestInvalid(
            f"{who} is listening at {place}, which was never a cri-proxy's socket, so it is not "
            "replaced: set another socket path"
        )


def _grant(path: Path, access: Access) -> None:
    """Set owner, then mode: changing the owner may clear bits of the mode."""
    found = path.stat()
    if (found.st_uid, found.st_gid) != (access.uid, access.gid):
        os.chown(path, access.uid, access.gid)
    path.chmod(access.mode)
