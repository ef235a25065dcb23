import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hack.testbed import processes, waiting

_REPOSITORY = Path(__file__).parents[2]
_TALKS_THEN_SLEEPS = ["/bin/sh", "-c", "echo ready; sleep 1000 & wait"]


def test_output_can_be_awaited_and_read(tmp_path: Path) -> None:
    with processes.Program(_TALKS_THEN_SLEEPS, log=tmp_path / "log") as program:
        assert program.await_output("^rea") == "rea"
        assert program.is_running

    assert program.output() == "ready\n"


def test_the_error_has_the_output_of_a_program_that_ends_before_the_awaited_output(
    tmp_path: Path,
) -> None:
    with processes.Program(["/bin/sh", "-c", "echo sorry; exit 3"], log=tmp_path / "log") as it:
        with pytest.raises(processes.ProgramEnded, match=r"(?s)before it wrote 'ready'.*sorry"):
            it.await_output("ready")

        assert it.wait() == 3


def test_the_error_has_the_output_of_a_program_that_ends_before_it_is_ready(tmp_path: Path) -> None:
    with (
        processes.Program(["/bin/sh", "-c", "echo sorry"], log=tmp_path / "log") as it,
        pytest.raises(processes.ProgramEnded, match=r"(?s)waiting for its socket: .*sorry"),
    ):
        it.await_ready(lambda: False, what="its socket")


def test_the_error_has_the_output_of_a_program_that_is_never_ready(tmp_path: Path) -> None:
    with processes.Program(_TALKS_THEN_SLEEPS, log=tmp_path / "log") as it:
        it.await_output("ready")

        with pytest.raises(waiting.DeadlineExceeded, match=r"(?s)for its socket; .*\nready"):
            it.await_ready(lambda: False, what="its socket", seconds=0.01)


def test_each_run_reads_its_own_part_of_a_shared_log(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with processes.Program(["/bin/echo", word], log=tmp_path / "log") as program:
            program.wait()

    assert program.output() == "second\n"
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]
    program = processes.Program(stubborn, log=tmp_path / "log")
    program.await_output("ready")

    assert program.stop(seconds=0.1) == -signal.SIGKILL


def test_children_end_with_their_program(tmp_path: Path) -> None:
    program = processes.Program(_TALKS_THEN_SLEEPS, log=tmp_path / "log")
    program.await_output("ready")

    program.kill()

    waiting.until(lambda: not _members(program.pid), what="the group to end")


def test_a_program_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    starter = (
        "import sys, pathlib\n"
        "from hack.testbed import processes\n"
        f"p = processes.Program({_TALKS_THEN_SLEEPS!r}, log=pathlib.Path({str(tmp_path)!r}, 'l'))\n"
        "print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_REPOSITORY,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert _members(pid)

        process.kill()

        waiting.until(lambda: not _members(pid), what="the orphan's group to end")


def test_a_dismissed_guard_does_nothing(tmp_path: Path) -> None:
    guard = processes.Guard(["touch", str(tmp_path / "acted")])

    guard.dismiss()

    assert not (tmp_path / "acted").exists()


def _members(group: int) -> list[int]:
    """Return the running processes of a group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgid = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgid) == group and state not in "ZX" and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found
