"""Child programs: what they are given, how they are kept running, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cri_proxy.lib import child
from cri_proxy.lib.child import Child, Program, Supervisor
from hack.testbed import waiting

ROOT = Path(__file__).parents[2]
COPY = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())"
EXIT = "import sys; sys.exit(7)"
STAY = "import time; time.sleep(1000)"
ENVIRON = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


def program(code: str, *arguments: object, **more: tuple[str, ...]) -> Program:
    argv = (sys.executable, "-c", code, *map(str, arguments))
    return Program(argv, {"root": "/x"}, nice=0, **more)


def test_a_child_gets_its_init_message_first_and_then_what_is_written(tmp_path: Path) -> None:
    copying = Child(program(COPY, tmp_path / "got"))
    written = copying.write(b"one\n")
    status = copying.end(60)

    assert (written, status) == (4, 0)
    first, rest = (tmp_path / "got").read_text().splitlines()
    assert json.loads(first) == {"type": "init", "nice": 0, "settings": {"root": "/x"}}
    assert rest == "one"


def test_a_pipe_that_is_full_takes_nothing_and_does_not_block() -> None:
    staying = Child(program(STAY))
    while staying.write(b"x" * 65536):
        pass

    assert staying.end(0) == -signal.SIGKILL


def test_writing_to_a_child_that_has_ended_is_an_error() -> None:
    exiting = Child(program(EXIT))

    assert exiting.wait() == 7
    with pytest.raises(BrokenPipeError):
        exiting.write(b"late")


def test_a_child_sees_a_few_variables_and_those_that_it_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_SERVICE_NAME", "NODE_NAME", "NODE_SECRET", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "set")
    Child(program(ENVIRON, tmp_path / "got", variables=("OTEL_", "NODE_NAME"))).wait()

    found = json.loads((tmp_path / "got").read_text())
    assert {"OTEL_SERVICE_NAME", "NODE_NAME", "SSL_CERT_FILE", "PATH"} <= found.keys()
    assert "NODE_SECRET" not in found


def test_a_program_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Child(Program(("/nowhere/program",), {}))


def test_a_child_process_lowers_its_priority_and_leaves_signals_to_its_parent() -> None:
    code = (
        "import json, os, signal\n"
        "from cri_proxy.lib import child\n"
        "init = child.begin(dict[str, str])\n"
        "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT)\n"
        "print(json.dumps([init, os.nice(0)]))"
    )
    before = os.nice(0)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=child.init_line_of({"root": "/x"}, 3),
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout) == [{"root": "/x"}, min(19, before + 3)]


@pytest.mark.parametrize("sent", [b"", b'{"type": "init", "ni'])
def test_a_child_process_whose_parent_is_gone_has_no_init_message(sent: bytes) -> None:
    code = "from cri_proxy.lib import child; assert child.begin(dict) is None"

    subprocess.run([sys.executable, "-c", code], input=sent, cwd=ROOT, check=True, timeout=60)


def test_a_program_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "FIRST_PAUSE_SECONDS", 0.0)
    ends: list[tuple[str, float]] = []
    has_ended_twice = threading.Event()

    def on_end(why: str, again_in: float) -> None:
        ends.append((why, again_in))
        if len(ends) == 2:
            has_ended_twice.set()

    supervisor = Supervisor(program(EXIT), on_end)
    assert has_ended_twice.wait(60)
    supervisor.stop(60)

    assert ends[:2] == [("exit status 7", 0.0)] * 2


def test_a_program_that_cannot_be_started_is_reported_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child, "FIRST_PAUSE_SECONDS", 0.0)
    ends: list[str] = []
    place = tmp_path / "later"
    supervisor = Supervisor(Program((str(place),), {}), lambda **end: ends.append(end["why"]))
    first = supervisor.child
    place.write_text("#!/bin/sh\nexec sleep 1000\n")
    place.chmod(0o755)
    waiting.until(lambda: supervisor.child is not None, what="a start that succeeds")
    supervisor.stop(0)

    assert first is None
    assert ends[0].startswith("it cannot be started: ")


def test_a_program_that_is_stopped_is_not_started_again(tmp_path: Path) -> None:
    ends: list[str] = []
    supervisor = Supervisor(program(COPY, tmp_path / "got"), lambda **end: ends.append(end["why"]))
    supervisor.stop(60)

    assert (tmp_path / "got").exists()  # it saw the end of its input, and was not killed
    assert ends == []


def test_pauses_before_a_next_start_grow_and_begin_anew_after_a_long_run() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(child.pause_after(pauses[-1], ran_seconds=0.1))

    assert pauses[1:] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert child.pause_after(60, ran_seconds=3600) == child.FIRST_PAUSE_SECONDS
