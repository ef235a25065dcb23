"""Sockets: how a place is taken, and when it is not."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.interposer import sockets

ACCESS = sockets.Access(0o660, os.geteuid(), os.getegid())


def test_socket_appears_in_its_place_with_its_access_and_listening(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"

    with sockets.staged(place, ACCESS) as name, _listening(name):
        assert name.parent == tmp_path
        assert not place.exists()
        assert stat.S_ISSOCK(name.stat().st_mode)

    assert stat.S_ISSOCK(place.stat().st_mode)
    assert stat.S_IMODE(place.stat().st_mode) == 0o660
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxy.sock", "proxy.sock.lock"]


def test_directory_of_the_place_is_made(tmp_path: Path) -> None:
    place = tmp_path / "run" / "cri-proxy" / "proxy.sock"

    with sockets.staged(place, ACCESS) as name, _listening(name):
        pass

    assert place.is_socket()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o770])
def test_access_is_that_of_another_socket(mode: int, tmp_path: Path) -> None:
    with _listening(tmp_path / "runtime.sock"):
        (tmp_path / "runtime.sock").chmod(mode)

        access = sockets.access_of(tmp_path / "runtime.sock")
        with sockets.staged(tmp_path / "proxy.sock", access) as name, _listening(name):
            pass

    assert stat.S_IMODE((tmp_path / "proxy.sock").stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_and_group_are_those_of_another_socket(tmp_path: Path) -> None:
    with _listening(tmp_path / "runtime.sock"):
        os.chown(tmp_path / "runtime.sock", 1234, 5678)

        access = sockets.access_of(tmp_path / "runtime.sock")
        with sockets.staged(tmp_path / "proxy.sock", access) as name, _listening(name):
            pass

    found = (tmp_path / "proxy.sock").stat()
    assert (found.st_uid, found.st_gid) == (1234, 5678)


def test_access_without_another_socket_is_owner_and_group(tmp_path: Path) -> None:
    assert sockets.access_of(tmp_path / "absent.sock") == ACCESS


def test_socket_left_by_a_dead_proxy_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place):
        pass
    dead = place.stat().st_ino

    with sockets.staged(place, ACCESS) as name, _listening(name):
        pass

    assert place.stat().st_ino != dead


def test_place_where_somebody_listens_is_refused_and_stays(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place):
        live = place.stat().st_ino

        with pytest.raises(errors.RequestInvalid, match=r"somebody listens at .*/proxy\.sock"):
            _take(place)

        assert place.stat().st_ino == live


def test_place_whose_listener_is_too_busy_to_accept_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place, backlog=0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(place))

        with pytest.raises(errors.RequestInvalid, match="somebody listens at"):
            _take(place)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_something_that_is_no_socket_is_refused_and_stays(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    match kind:
        case "file":
            place.write_text("precious")
        case "directory":
            place.mkdir()
        case _:
            place.symlink_to("elsewhere.sock")

    with pytest.raises(errors.RequestInvalid, match="is not a socket: move it away"):
        _take(place)

    assert place.is_symlink() or place.exists()


def test_path_that_is_too_long_when_staged_is_refused_with_the_number_of_bytes(
    tmp_path: Path,
) -> None:
    """Bytes count, not letters, and those of the staged name too."""
    suffix = len(".abcdef")
    room = sockets.PATH_BYTES - suffix - len(os.fsencode(tmp_path)) - 1
    fits = tmp_path / ("é" * (room // 2) + "x" * (room % 2))

    with sockets.staged(fits, ACCESS) as name, _listening(name):
        pass
    with pytest.raises(errors.RequestInvalid, match="is 1 bytes too long") as refusal:
        _take(fits.with_name(fits.name + "x"))

    assert fits.is_socket()
    assert str(sockets.PATH_BYTES) in str(refusal.value)


def test_place_that_is_just_being_taken_by_another_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with (
        sockets.staged(place, ACCESS) as name,
        _listening(name),
        pytest.raises(errors.RequestInvalid, match="another cri-proxy is just starting"),
    ):
        _take(place)

    assert place.is_socket()


def test_failure_to_bind_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place):
        pass
    dead = place.stat().st_ino

    with (
        pytest.raises(ZeroDivisionError),
        sockets.staged(place, ACCESS) as name,
        _listening(name),
    ):
        raise ZeroDivisionError

    assert place.stat().st_ino == dead
    assert not name.exists()


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(errors.RequestInvalid, match=r"cannot listen at .*Not a directory"):
        _take(tmp_path / "file" / "run" / "proxy.sock")


def _take(place: Path) -> None:
    with sockets.staged(place, ACCESS) as name, _listening(name):
        pass


def _listening(path: Path, *, backlog: int = 16) -> socket.socket:
    """Return a listener at `path`, which leaves the file when it is closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fsencode(path))
    listener.listen(backlog)
    return listener
