"""Listening sockets: how they come to their place, and who may take it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.errors import RequestInvalid
from cri_proxy.router import sockets


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A runtime's socket."""
    with socket.socket(socket.AF_UNIX) as runtime:
        path = tmp_path / "containerd.sock"
        runtime.bind(str(path))
        path.chmod(0o620)
        yield path


def test_socket_has_mode_and_owner_of_the_runtimes(tmp_path: Path, model: Path) -> None:
    if os.geteuid() == 0:
        os.chown(model, 12, 34)
    listener = sockets.listen(tmp_path / "s.sock", like=model)

    made, expected = listener.place.stat(), model.stat()
    assert stat.S_IMODE(made.st_mode) == 0o620
    assert (made.st_uid, made.st_gid) == (expected.st_uid, expected.st_gid)
    listener.withdraw()


def test_socket_without_a_model_admits_owner_and_group(tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path / "s.sock", like=tmp_path / "missing")

    assert stat.S_IMODE(listener.place.stat().st_mode) == 0o660
    listener.withdraw()


def test_withdrawn_socket_leaves_no_file(tmp_path: Path, model: Path) -> None:
    listener = sockets.listen(tmp_path / "s.sock", like=model)
    listener.withdraw()

    assert sorted(each.name for each in tmp_path.iterdir()) == ["containerd.sock", "s.sock.lock"]


def test_stale_file_is_replaced(tmp_path: Path, model: Path) -> None:
    place = tmp_path / "s.sock"
    sockets.listen(place, like=model).socket.close()
    assert not sockets.is_live(place)

    listener = sockets.listen(place, like=model)

    assert sockets.is_live(place)
    listener.withdraw()


def test_live_socket_is_refused_and_named(tmp_path: Path, model: Path) -> None:
    first = sockets.listen(tmp_path / "s.sock", like=model)

    with pytest.raises(RequestInvalid, match=r"s\.sock.*--replace"):
        sockets.listen(tmp_path / "s.sock", like=model)
    first.withdraw()


def test_takeover_leaves_the_new_socket_when_the_old_one_withdraws(
    tmp_path: Path, model: Path
) -> None:
    old = sockets.listen(tmp_path / "s.sock", like=model)
    new = sockets.listen(tmp_path / "s.sock", like=model, is_replacing=True)
    old.withdraw()

    assert sockets.is_live(new.place)
    new.withdraw()


def test_file_that_is_no_socket_is_never_replaced(tmp_path: Path, model: Path) -> None:
    place = tmp_path / "s.sock"
    place.write_text("precious")

    with pytest.raises(RequestInvalid, match="not a socket"):
        sockets.listen(place, like=model, is_replacing=True)
    assert place.read_text() == "precious"


def test_path_that_is_too_long_is_refused_in_words(tmp_path: Path, model: Path) -> None:
    with pytest.raises(RequestInvalid, match="too long"):
        sockets.listen(tmp_path / ("x" * 100), like=model)


def test_holder_is_the_other_process_that_listens(tmp_path: Path, model: Path) -> None:
    place = tmp_path / "s.sock"
    assert sockets.holder(place) is None
    listener = sockets.listen(place, like=model)
    assert sockets.holder(place) is None
    listener.withdraw()

    program = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()

        assert sockets.holder(place) == other.pid
        other.communicate()


def test_socket_of_socket_activation_is_taken_once(tmp_path: Path) -> None:
    """In a program of its own, because descriptor 3 is the first that systemd passes."""
    program = (
        "import os, sys; from cri_proxy.router import sockets; os.dup2(int(sys.argv[1]), 3);"
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
