import io
import json
import logging
import os
import pty

import pytest

from cri_proxy.settings import schema
from cri_proxy.telemetry import logs, spans


@pytest.fixture(autouse=True)
def _root_logger():
    """Give the root logger back to pytest afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(write, *, level="info", form="text"):
    """Return the lines that `write(log)` leads to."""
    stream = io.StringIO()
    logs.setup(schema.LogSettings(level=level, format=form), stream=stream)
    write(logs.of("cri_proxy.realizer.realizer"))
    return stream.getvalue().splitlines()


def test_a_text_line_has_time_level_logger_event_and_fields():
    (line,) = lines(lambda log: log.info("environment ready", reference="a/b:3", seconds=2.12345))

    time, _, rest = line.partition(" ")
    assert rest == "info realizer.realizer: environment ready reference=a/b:3 seconds=2.123"
    assert len(time) == len("2026-01-31T12:00:00.123Z")


def test_values_that_are_not_one_word_are_quoted():
    (line,) = lines(
        lambda log: log.info("said", what='two "words"', empty="", none=None, is_so=True)
    )

    assert line.endswith(r'said what="two \"words\"" empty="" none=none is_so=true')


def test_a_line_stays_one_line_whatever_is_in_it():
    """A line of the log cannot be forged by the name of an environment."""
    written = lines(lambda log: log.info("a\nb", name="x\n2026 info realizer: forged\u2028\x1b[2J"))

    assert len(written) == 1
    assert "\x1b" not in written[0]
    assert r"a\x0ab" in written[0]


def test_an_event_is_no_format():
    (line,) = lines(lambda log: log.info("100%s %d"))

    assert line.endswith("100%s %d")


def test_a_json_line_is_an_object_that_keeps_numbers():
    (line,) = lines(lambda log: log.warning("slow\n", paths=3, seconds=0.5, path=b"x"), form="json")

    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning",
        "logger": "realizer.realizer",
        "event": "slow\n",
        "paths": 3,
        "seconds": 0.5,
        "path": "b'x'",
    }


def test_a_field_cannot_replace_what_the_line_itself_says():
    (line,) = lines(lambda log: log.info("event", level="none", time=0), form="json")

    assert json.loads(line)["level"] == "info"


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_hidden_by_their_name_and_inside_urls(form):
    written = lines(
        lambda log: log.info(
            "asked https://me:hush@a.example", floxhub_token="hush", url="http://me:hush@b.example"
        ),
        form=form,
    )

    assert "hush" not in written[0]
    assert "https://***@a.example" in written[0]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_brings_its_traceback(form):
    def write(log):
        try:
            raise ValueError("https://me:hush@a.example")
        except ValueError as error:
            log.error("broke", fault=error)

    written = "\n".join(lines(write, form=form))

    assert "Traceback" in written
    assert "test_logs.py" in written
    assert "hush" not in written


def test_lines_below_the_level_are_not_written():
    assert lines(lambda log: log.info("hello"), level="warning") == []
    assert len(lines(lambda log: log.debug("hello"), level="debug")) == 1


def test_lines_of_libraries_take_the_same_way_out():
    (line,) = lines(lambda _: logging.getLogger("urllib3.pool").critical("lost %s", "it"))

    assert line.endswith("error urllib3.pool: lost it")


@pytest.mark.parametrize("library", ["dulwich", "hpack.hpack", "urllib3.connectionpool"])
def test_debug_lines_of_libraries_are_not_ours_to_show(library):
    assert lines(lambda _: logging.getLogger(library).debug("sent x"), level="debug") == []


def test_auto_is_json_in_a_pipe_and_text_on_a_terminal():
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "w") as pipe:
        logs.setup(schema.LogSettings(), stream=pipe)
        assert isinstance(logging.getLogger().handlers[0].formatter, logs.Json)
    controller, terminal = pty.openpty()
    with os.fdopen(controller), os.fdopen(terminal, "w") as stream:
        logs.setup(schema.LogSettings(), stream=stream)
        assert isinstance(logging.getLogger().handlers[0].formatter, logs.Text)


def test_the_journal_gets_priorities_instead_of_times(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.setup(schema.LogSettings(), stream=stream)
        logs.of("cri_proxy.daemon").error("broke", fault=ValueError("x"))
        logs.of("cri_proxy.daemon").info("went on")
        stream.seek(0)
        written = stream.read().splitlines()

    assert written == [
        "<3>error daemon: broke",
        "<3>ValueError: x",
        "<6>info daemon: went on",
    ]


def test_a_line_that_names_its_trace_does_not_get_the_current_spans_ids():
    spans.install(lambda span: None)
    span = spans.Span("x", spans.Context(0xA, 0xB, is_sampled=True), None, attributes={})
    with spans.Entered(span):
        own, other = lines(lambda log: (log.info("pod started", trace_id="c"), log.info("other")))
    spans.install(None)

    assert own.endswith("pod started trace_id=c")
    assert other.endswith(f"other trace_id={0xA:032x} span_id={0xB:016x}")
