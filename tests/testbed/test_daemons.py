import signal
from pathlib import Path

import pytest

from hack.testbed import processes
from hack.testbed.daemons import Daemon


class Touching(Daemon):
    """A daemon that is ready once it has created a file."""

    title = "the toucher"

    def __init__(self, directory: Path, *, script: str = "touch made; sleep 1000 & wait") -> None:
        self.made = directory / "made"
        self._script = script

    def launch(self) -> processes.Program:
        self.made.unlink(missing_ok=True)
        directory = self.made.parent
        argv = ["/bin/sh", "-c", self._script]
        return processes.Program(argv, log=directory / "log", cwd=directory)

    def is_ready(self) -> bool:
        return self.made.exists()


def test_it_is_ready_within_its_context_and_stopped_after_it(tmp_path: Path) -> None:
    with Touching(tmp_path) as daemon:
        assert daemon.made.exists()
        assert daemon.is_running

    assert not daemon.is_running


def test_another_process_runs_after_a_restart(tmp_path: Path) -> None:
    with Touching(tmp_path) as daemon:
        before = daemon.program

        daemon.restart()

        assert not before.is_running
        assert daemon.is_running
        assert daemon.pid != before.pid


def test_a_killed_daemon_can_be_started_again(tmp_path: Path) -> None:
    with Touching(tmp_path) as daemon:
        daemon.kill()

        assert daemon.program.wait() == -signal.SIGKILL
        daemon.start()
        assert daemon.is_running


def test_the_error_of_a_daemon_that_ends_early_has_its_log(tmp_path: Path) -> None:
    daemon = Touching(tmp_path, script="echo sorry; exit 3")

    with pytest.raises(processes.ProgramEnded, match=r"(?s)the toucher to be ready: .*sorry"):
        daemon.start()


def test_a_daemon_that_was_not_started_says_so(tmp_path: Path) -> None:
    daemon = Touching(tmp_path)

    daemon.stop()

    with pytest.raises(RuntimeError, match="the toucher has not been started"):
        daemon.kill()
