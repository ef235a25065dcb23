"""The pipe to the program that sends: bounded, never waiting, whole after a death."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cri_proxy.lib import child
from cri_proxy.lib.child import Program
from cri_proxy.telemetry import sender
from cri_proxy.telemetry.sender import SpanSender
from hack.testbed import waiting

COPY = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())"
DIE_ONCE = f"""
import os, sys
if not os.path.exists(sys.argv[2]):
    open(sys.argv[2], "w")
    os._exit(3)
{COPY.partition("; ")[2]}
"""
SLEEP = "import time; time.sleep(1000)"


def made(program: str, *arguments: object) -> SpanSender:
    argv = (sys.executable, "-c", program, *(str(each) for each in arguments))
    return SpanSender(Program(argv, {"log": 1}, nice=0))


def test_every_line_arrives_after_the_init_message(tmp_path: Path) -> None:
    sending = made(COPY, tmp_path / "got")
    for number in range(3):
        sending.add(f"{number:032x}", "", '{"name":"call"}')
    sending.flush()
    sending.close(60)

    first, *lines = map(json.loads, (tmp_path / "got").read_text().splitlines())

    assert first == {"type": "init", "nice": 0, "settings": {"log": 1}}
    assert [line["trace_id"] for line in lines] == [f"{number:032x}" for number in range(3)]


def test_a_program_that_reads_nothing_costs_what_does_not_fit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_BACKLOG_BYTES", 100_000)
    sending = made(SLEEP)
    for _ in range(5000):
        sending.add("0" * 32, "", f'{{"name":"{"x" * 100}"}}')
        sending.flush()

    assert sending.backlog
    sending.close(0)
    assert caplog.records == []


def test_a_program_that_ended_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child, "FIRST_PAUSE_SECONDS", 0.0)
    sending = made(DIE_ONCE, tmp_path / "got", tmp_path / "was")

    def has_died() -> bool:
        sending.add("a" * 32, "", "{}")
        sending.flush()
        return bool(caplog.records)

    waiting.until(has_died, what="the death to be noticed")
    waiting.until((tmp_path / "got").exists, what="the next start")
    sending.add("b" * 32, "", "{}")
    sending.flush()
    sending.close(60)

    first, *_, last = map(json.loads, (tmp_path / "got").read_text().splitlines())
    assert first == {"type": "init", "nice": 0, "settings": {"log": 1}}
    assert last["trace_id"] == "b" * 32
    assert "span exporter ended" in caplog.text
