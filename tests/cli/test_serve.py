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
    assert commands.in_pipe("serve", "--set=log.level=error", is_stand_in=True).errors == ""


def test_a_daemon_that_cannot_start_says_why_in_a_line(commands):
    done = commands.in_pipe("serve", "--set=serve.listen=/run/taken.sock", is_stand_in=True)

    assert done.code == 1
    assert done.errors == "error: /run/taken.sock is taken: set serve.listen\n"


def test_the_router_is_in_front_by_default(commands):
    usual = json.loads(commands.in_pipe("serve", is_stand_in=True).errors)
    alone = json.loads(
        commands.in_pipe("serve", "--set=serve.front=interposer", is_stand_in=True).errors
    )

    assert (usual["front"], alone["front"]) == ("router", "interposer")


def test_a_socket_is_taken_over_only_when_asked(commands):
    usual = json.loads(commands.in_pipe("serve", is_stand_in=True).errors)
    asked = json.loads(commands.in_pipe("serve", "--replace", is_stand_in=True).errors)

    assert (usual["is_replacing"], asked["is_replacing"]) == (False, True)
