"""Jobs: found by their definition, and checked by mypy on both sides of the border."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import pytest

from cri_proxy.lib.job import NOTHING, Cancelled, Job, Jobs, Task

DOUBLE: Final = Job("double", int, int, int)
SHOUT: Final = Job("shout", str, NOTHING, str)
PROGRAM = """
from cri_proxy.lib.job import Task
from cri_proxy.lib.workers import Pool
from cri_proxy.store import protocol
from cri_proxy.store.protocol import Fact, Find, Survey

def sound(argument: Find, task: Task[None]) -> None: ...
def other_argument(argument: list[str], task: Task[None]) -> None: ...
def other_report(argument: Find, task: Task[int]) -> None: ...
def other_result(argument: Find, task: Task[None]) -> int: ...
def on_int(report: int) -> None: ...

protocol.FIND.run_by(sound)
protocol.FIND.run_by(other_argument)  # wrong
protocol.FIND.run_by(other_report)  # wrong
protocol.FIND.run_by(other_result)  # wrong

async def call(pool: Pool) -> None:
    facts: list[Fact] = await pool.call(protocol.SURVEY, Survey(roots=(), width=8))
    await pool.call(protocol.SURVEY, Survey(roots=(), breadth=8))  # wrong
    await pool.call(protocol.SURVEY, Find(()))  # wrong
    await pool.call(protocol.SURVEY, Survey((), 8), on_progress=on_int)  # wrong
    size: int = await pool.call(protocol.SURVEY, Survey((), 8))  # wrong
"""


def double(argument: int, task: Task[int]) -> int:
    task.report(argument)
    return 2 * argument


def start_shouting(argument: str, task: Task[None]) -> Future[str]:
    future: Future[str] = Future()
    future.set_result(argument.upper())
    return future


def test_table_gives_the_function_of_a_job() -> None:
    jobs = Jobs(DOUBLE.run_by(double)) | Jobs(SHOUT.started_by(start_shouting))
    reports: list[int] = []

    assert jobs[DOUBLE](4, Task(reports.append)) == 8
    assert jobs[SHOUT]("x", Task(lambda report: None)) == "X"
    assert reports == [4]
    assert SHOUT in jobs
    assert SHOUT not in Jobs()


def test_task_that_was_cancelled_raises_when_it_checks() -> None:
    task = Task[None](lambda report: None)
    task.check()
    task.cancel()

    with pytest.raises(Cancelled):
        task.check()


def test_what_differs_from_the_definition_fails_mypy(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    argv = [sys.executable, "-m", "mypy", "--strict", "--disable-error-code=empty-body"]
    done = subprocess.run(
        [*argv, str(program)], capture_output=True, text=True, check=False, timeout=170
    )

    wrong = {
        number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")
    }
    assert len(wrong) == 7
    assert {int(each) for each in re.findall(r"program\.py:(\d+): error", done.stdout)} == wrong
