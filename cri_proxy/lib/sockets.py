"""A unix socket's place in the file system, taken so that nobody ever finds it half made.

Whoever is to listen binds to a staged name beside the place; then the socket gets mode and owner of
the runtime's own, and is renamed into the place. Whoever could talk to the runtime can talk to the
proxy, and a file left by a dead proxy is replaced. A rename is also how a place is taken over: the
connections of the old process stay with it, new ones come to the new. The old one notices by
itself that another socket stands in its place (`Taken.is_lost`), so no process need be found or
told, be it in another container; and it leaves that socket alone when it ends.

    /run/cri-proxy/
      cri-proxy.sock            the place
      cri-proxy.sock.3f2a1c     staged, for the moment between bind and rename
      cri-proxy.sock.lock       held for that moment, so that of two starting proxies one wins

A place where somebody listens is refused, unless it is to be replaced, and then, too, if it never
was a proxy's: a proxy's has a lock beside it. Two proxies that start at the same moment are told
apart by the lock; the risk that remains is a listener that is not a proxy and binds between the
look and the rename.

With socket activation systemd keeps the socket and passes it in (`inherited`): a restart refuses no
connection, and there is no place to take.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors

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
    """Who may connect: permission bits, and owner and group by number."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A place and the socket that was put there, by its inode.

    As long as the socket is open, no other gets this inode.
    """

    place: Path
    inode: int

    def is_lost(self) -> bool:
        """Return whether another stands there; if there is nothing, nobody has taken the place."""
        try:
            return self.place.lstat().st_ino != self.inode
        except OSError:
            return False

    def withdraw(self) -> None:
        """Remove the file, unless another socket stands there."""
        with _lock(self.place, is_waiting=True):
            try:
                if self.place.lstat().st_ino == self.inode:
                    self.place.unlink()
            except FileNotFoundError:
                return


@dataclass(frozen=True, slots=True)
class Staged:
    """The name to bind to, and what will have been taken when it has been renamed."""

    name: Path
    place: Path

    def taken(self) -> Taken:
        """Return the place with what is bound to the name now."""
        return Taken(self.place, self.name.lstat().st_ino)


def access_of(path: Path) -> Access:
    """Return the access of the socket at `path`; if there is none, 0660 for this process's user."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return Access(0o660, os.geteuid(), os.getegid())
    return Access(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


@contextmanager
def staged(place: Path, access: Access, *, is_replacing: bool = False) -> Iterator[Staged]:
    """Yield the name to bind to; on leaving, what was bound there is put into `place`.

    Creates the place's directory. Raises RequestInvalid if the place cannot be had: its path is
    too long, it holds something that is no socket, or somebody listens there who is not to be
    replaced or cannot be. If the body raises, the place stays as it was.
    """
    name = place.with_name(f"{place.name}.{secrets.token_hex(_SUFFIX_BYTES)}")
    excess = len(os.fsencode(name)) - PATH_BYTES
    if excess > 0:
        raise errors.RequestInvalid(
            f"the socket path {place} is {excess} bytes too long: with the name that it is "
            f"staged under, a unix socket's path has at most {PATH_BYTES} bytes"
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
    """Yield a socket that listens, and on leaving is put into `place` as `staged` does.

    If the body raises the socket is closed, and the place stays whose it was.
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
    """Keep other proxies from taking the same place meanwhile."""
    descriptor = os.open(_lock_of(place), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        except BlockingIOError as failure:
            raise errors.RequestInvalid(
                f"another cri-proxy is just starting at {place}: stop one of them"
            ) from failure
        yield
    finally:
        os.close(descriptor)


def _check_free(place: Path, *, is_replacing: bool, was_ours: bool) -> None:
    """Raise RequestInvalid if something at `place` may not be replaced."""
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.RequestInvalid(
            f"{place} is not a socket: move it away or choose another socket path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog is a listener too
        holder = 0
        try:
            probe.connect(os.fsencode(place))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            holder, _, _ = _CREDENTIALS.unpack(raw)  # 0: of a PID namespace that we do not see
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass
    who = f"process {holder}" if holder else "somebody"
    if not is_replacing:
        raise errors.RequestInvalid(
            f"{who} listens at {place} already: stop that cri-proxy, take over from it with "
            "--replace, or choose another socket path"
        )
    if holder == _SYSTEMD and os.getpid() != _SYSTEMD:
        raise errors.RequestInvalid(
            f"systemd listens at {place} and would not notice another socket there: restart the "
            "service that its socket unit starts, without --replace"
        )
    if not was_ours:
        raise errors.RequestInvalid(
            f"{who} listens at {place}, which never was a cri-proxy's socket, so it is not "
            "replaced: choose another socket path"
        )


def _grant(path: Path, access: Access) -> None:
    """Set owner before mode, for a change of owner may clear bits of the mode."""
    found = path.stat()
    if (found.st_uid, found.st_gid) != (access.uid, access.gid):
        os.chown(path, access.uid, access.gid)
    path.chmod(access.mode)
