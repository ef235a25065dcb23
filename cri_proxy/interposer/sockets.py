"""A unix socket's place in the file system, taken so that nobody ever finds it half made.

The server binds to a staged name beside the place; then the socket gets mode and owner of the
runtime's own socket, and is renamed into the place. Whoever could talk to the runtime can talk to
the proxy, a file left by a dead proxy is replaced, and a server that is still draining does not
lose its successor's socket when it stops (gRPC unlinks the name that it once bound, which by then
is nobody's).

    /run/cri-proxy/
      cri-proxy.sock            the place
      cri-proxy.sock.3f2a1c     staged, for the moment between bind and rename
      cri-proxy.sock.lock       held for that moment, so that of two starting proxies one wins

A place where somebody listens is refused, whoever it is. Two proxies that start at the same moment
are told apart by the lock; the risk that remains is a listener that is not a proxy and binds
between the look and the rename.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors

PATH_BYTES: Final = 107
"""The longest path of a unix socket: sun_path of unix(7), less its final zero."""

_SUFFIX_BYTES: Final = 3


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: permission bits, and owner and group by number."""

    mode: int
    uid: int
    gid: int


def access_of(path: Path) -> Access:
    """Return the access of the socket at `path`; if there is none, 0660 for this process's user."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return Access(0o660, os.geteuid(), os.getegid())
    return Access(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


@contextmanager
def staged(place: Path, access: Access) -> Iterator[Path]:
    """Yield the name to bind to; on leaving, what was bound there is put into `place`.

    Creates the place's directory. Raises RequestInvalid if the place cannot be had: its path is
    too long, it holds something that is no socket, or somebody listens there. If the body raises,
    the place stays as it was.
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
        with _lock(place):
            _check_free(place)
            try:
                yield name
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
def _lock(place: Path) -> Iterator[None]:
    """Keep other proxies from taking the same place meanwhile."""
    path = place.with_name(f"{place.name}.lock")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            raise errors.RequestInvalid(
                f"another cri-proxy is just starting at {place}: stop one of them"
            ) from failure
        yield
    finally:
        os.close(descriptor)


def _check_free(place: Path) -> None:
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
        try:
            probe.connect(os.fsencode(place))
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass
    raise errors.RequestInvalid(
        f"somebody listens at {place} already: stop that cri-proxy or choose another socket path"
    )


def _grant(path: Path, access: Access) -> None:
    """Set owner before mode, for a change of owner may clear bits of the mode."""
    found = path.stat()
    if (found.st_uid, found.st_gid) != (access.uid, access.gid):
        os.chown(path, access.uid, access.gid)
    path.chmod(access.mode)
