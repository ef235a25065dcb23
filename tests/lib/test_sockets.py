"""Sockets: how a place is taken, and when it is not."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import sockets

ACCESS = sockets.Access(0o660, os.geteuid(), os.getegid())


def test_socket_appears_in_its_place_with_its_access_and_listening(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"

    with sockets.staged(place, ACCESS) as stage, _listening(stage.name):
        assert stage.name.parent == tmp_path
        assert not place.exists()
        assert stat.S_ISSOCK(stage.name.stat().st_mode)

    assert stat.S_ISSOCK(place.stat().st_mode)
    assert stat.S_IMODE(place.stat().st_mode) == 0o660
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxy.sock", "proxy.sock.lock"]


def test_directory_of_the_place_is_made(tmp_path: Path) -> None:
    place = tmp_path / "run" / "cri-proxy" / "proxy.sock"

    with sockets.staged(place, ACCESS) as stage, _listening(stage.name):
        pass

    assert place.is_socket()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o770])
def test_access_is_that_of_another_socket(mode: int, tmp_path: Path) -> None:
    with _listening(tmp_path / "runtime.sock"):
        (tmp_path / "runtime.sock").chmod(mode)

        access = sockets.access_of(tmp_path / "runtime.sock")
        with sockets.staged(tmp_path / "proxy.sock", access) as stage, _listening(stage.name):
            pass

    assert stat.S_IMODE((tmp_path / "proxy.sock").stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_and_group_are_those_of_another_socket(tmp_path: Path) -> None:
    with _listening(tmp_path / "runtime.sock"):
        os.chown(tmp_path / "runtime.sock", 1234, 5678)

        access = sockets.access_of(tmp_path / "runtime.sock")
        with sockets.staged(tmp_path / "proxy.sock", access) as stage, _listening(stage.name):
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

    with sockets.staged(place, ACCESS) as stage, _listening(stage.name):
        pass

    assert place.stat().st_ino != dead


def test_place_with_a_listener_is_refused_and_stays(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place):
        live = place.stat().st_ino

        with pytest.raises(
            errors.RequestInvalid,
            match=rf"process {os.getpid()} is listening at .*/proxy\.sock: .*--replace",
        ):
            _take(place)

        assert place.stat().st_ino == live


def test_place_whose_listener_is_too_busy_to_accept_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with _listening(place, backlog=0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(place))

        with pytest.raises(errors.RequestInvalid, match="another process is listening at"):
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

    with pytest.raises(errors.RequestInvalid, match="is not a socket: remove or rename it"):
        _take(place)

    assert place.is_symlink() or place.exists()


def test_path_that_is_too_long_when_staged_is_refused_with_the_number_of_bytes(
    tmp_path: Path,
) -> None:
    """Bytes count, not letters, and those of the staged name too."""
    suffix = len(".abcdef")
    room = sockets.PATH_BYTES - suffix - len(os.fsencode(tmp_path)) - 1
    fits = tmp_path / ("é" * (room // 2) + "x" * (room % 2))

    with sockets.staged(fits, ACCESS) as stage, _listening(stage.name):
        pass
    with pytest.raises(errors.RequestInvalid, match="is 1 bytes too long") as refusal:
        _take(fits.with_name(fits.name + "x"))

    assert fits.is_socket()
    assert str(sockets.PATH_BYTES) in str(refusal.value)


def test_place_that_is_just_being_taken_by_another_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    with (
        sockets.staged(place, ACCESS) as stage,
        _listening(stage.name),
        pytest.raises(errors.RequestInvalid, match="another cri-proxy is starting"),
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
        sockets.staged(place, ACCESS) as stage,
        _listening(stage.name),
    ):
        raise ZeroDivisionError

    assert place.stat().st_ino == dead
    assert not stage.name.exists()


def test_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(errors.RequestInvalid, match=r"cannot listen at .*Not a directory"):
        _take(tmp_path / "file" / "run" / "proxy.sock")


def test_taking_over_leaves_the_new_socket_when_the_old_one_is_withdrawn(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    first, old = _served(place)
    assert not old.is_lost()

    second, new = _served(place, is_replacing=True)
    with first, second:
        old.withdraw()

        assert old.is_lost()
        assert not new.is_lost()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(place))
            second.accept()[0].close()


def test_place_whose_socket_was_removed_is_not_lost_to_another(tmp_path: Path) -> None:
    listener, taken = _served(tmp_path / "proxy.sock")
    with listener:
        taken.withdraw()

        assert not taken.place.exists()
        assert not taken.is_lost()


def test_place_that_never_was_a_proxys_is_not_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "containerd.sock"
    with (
        _listening(place),
        pytest.raises(errors.RequestInvalid, match="was never a cri-proxy's socket"),
    ):
        _served(place, is_replacing=True)


def test_something_that_is_no_socket_is_not_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    place.write_text("precious")

    with pytest.raises(errors.RequestInvalid, match="is not a socket"):
        _served(place, is_replacing=True)

    assert place.read_text() == "precious"


def test_failure_behind_the_listener_leaves_the_place_to_its_holder(tmp_path: Path) -> None:
    place = tmp_path / "proxy.sock"
    first, old = _served(place)
    with (
        first,
        pytest.raises(ZeroDivisionError),
        sockets.listening(place, ACCESS, is_replacing=True),
    ):
        raise ZeroDivisionError

    assert not old.is_lost()


def test_socket_of_socket_activation_is_taken_once(tmp_path: Path) -> None:
    """In a program of its own, because descriptor 3 is the first that systemd passes."""
    program = (
        "import os, sys; from cri_proxy.lib import sockets; os.dup2(int(sys.argv[1]), 3);"
        "os.environ['LISTEN_PID'] = str(os.getpid());"
        "found = sockets.inherited(os.environ);"
        "print([each.getsockname() for each in found], 'LISTEN_FDS' in os.environ,"
        " sockets.inherited(os.environ), os.get_inheritable(3))"
    )
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(tmp_path / "s.sock"))
        passed.listen()
        done = subprocess.run(
            [sys.executable, "-c", program, str(passed.fileno())],
            env={**os.environ, "LISTEN_FDS": "1", "PYTHONPATH": str(Path.cwd())},
            pass_fds=[passed.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.stdout.strip() == f"['{tmp_path}/s.sock'] False [] False"


def test_variables_of_another_process_are_not_ours() -> None:
    assert sockets.inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


def _take(place: Path) -> None:
    with sockets.staged(place, ACCESS) as stage, _listening(stage.name):
        pass


def _served(place: Path, *, is_replacing: bool = False) -> tuple[socket.socket, sockets.Taken]:
    with sockets.listening(place, ACCESS, is_replacing=is_replacing) as served:
        pass
    return served


def _listening(path: Path, *, backlog: int = 16) -> socket.socket:
    """Return a listener at `path`, which leaves the file when it is closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fsencode(path))
    listener.listen(backlog)
    return listener
