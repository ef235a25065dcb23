"""`serve` with a daemon that ends at once; the real one is tried with real pods."""

import json


def test_a_daemon_in_a_pipe_logs_json_to_standard_error(commands):
    done = commands.in_pipe("serve", is_stand_in=True)

    assert (done.code, done.output) == (0, "")
    assert json.loads(done.errors)["event"] == "serving"


def test_a_daemon_at_a_terminal_logs_text(commands):
    done = commands.at_terminal("serve", is_stand_in=True)

    assert "info daemon.main: serving listen=/run/cri-proxy/cri-proxy.sock" in done.output


def test_the_log_can_be_set_like_any_setting(commands):
    assert commands.in_pipe("serve", "--log-level=error", is_stand_in=True).errors == ""


def test_a_daemon_with_a_collector_traces(commands):
    done = commands.in_pipe(
        "serve",
        "--tracing-exporter=otlp",
        is_stand_in=True,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )

    lines = [json.loads(line) for line in done.errors.splitlines()]
    assert len(lines[0]["trace_id"]) == 32
    assert any("export" in line["event"] for line in lines[1:])


def test_a_daemon_that_cannot_start_says_why_in_a_line(commands):
    done = commands.in_pipe("serve", "--serve-listen=/run/taken.sock", is_stand_in=True)

    assert done.code == 1
    assert done.errors == "error: /run/taken.sock is taken: set serve.listen\n"
