"""The program as a new user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cri_proxy

ROOT = Path(__file__).parents[2]


def test_help_lists_commands_and_exit_codes(commands):
    done = commands.in_pipe("--help")

    assert done.code == 0
    for word in ("serve", "check", "realize", "environments", "version", "exit codes:", "130"):
        assert word in done.output
    assert "worker" not in done.output


@pytest.mark.parametrize("command", ["serve", "check", "realize", "environments", "version"])
def test_every_command_tells_its_own_help_and_the_exit_codes(commands, command):
    done = commands.in_pipe(command, "--help")

    assert done.code == 0
    assert done.output.startswith(f"usage: cri-proxy {command} ")
    assert "exit codes:" in done.output


def test_help_needs_nothing_that_is_slow_to_import():
    program = (
        "import sys; from cri_proxy.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'rich', 'grpc', 'opentelemetry', 'urllib3', 'asyncio'} & set(sys.modules)\n"
        "assert not slow, slow"
    )

    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60
    )


def test_no_command_at_all_is_answered_with_help_and_refused(commands):
    done = commands.in_pipe()

    assert (done.code, done.output) == (2, "")
    assert "commands:" in done.errors


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(commands):
    done = commands.in_pipe("relize", "a/b")

    assert done.code == 2
    assert done.errors.splitlines() == [
        "error: there is no command 'relize'; did you mean realize?",
        "see cri-proxy --help",
    ]


@pytest.mark.parametrize("arguments", [("--confg=/x", "check"), ("check", "--confg=/x")])
def test_a_mistyped_flag_is_answered_with_the_one_that_was_meant(commands, arguments):
    done = commands.in_pipe(*arguments)

    assert done.code == 2
    assert "error: unknown option --confg; did you mean --config?" in done.errors


@pytest.mark.parametrize(
    "arguments", [("--set", "stroe.root=/x", "check"), ("check", "--set=stroe.root=/x")]
)
def test_a_mistyped_key_is_answered_with_the_one_that_was_meant(commands, arguments):
    done = commands.in_pipe(*arguments)

    assert done.code == 2
    assert done.errors == "error: --set: unknown key stroe.root; did you mean store.root?\n"


def test_settings_may_be_given_before_and_after_the_command(commands):
    more = ("--set", "log.level=debug", "check", "--set", "log.format=text", "--json")
    found = json.loads(commands.in_pipe(*more).output)["settings"]

    sources = {each["key"]: each["source"] for each in found}
    assert (sources["log.level"], sources["log.format"]) == ("--set", "--set")


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused_with_what_to_write(commands, seconds):
    done = commands.in_pipe("install", f"--within={seconds}")

    assert done.code == 2
    assert f"--within: must be a number of seconds above 0, not '{seconds}'" in done.errors


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_an_image_of_a_node_that_is_not_there_is_told(commands, command, tmp_path):
    done = commands.in_pipe(command, "--root", str(tmp_path / "image"))

    assert done.code == 1
    assert (
        f"there is no directory {tmp_path}/image: set --root to the unpacked image" in done.errors
    )


def test_a_flag_may_stand_before_the_command_as_well(commands):
    done = commands.in_pipe("--json", "--set", "log.level=debug", "version")

    assert json.loads(done.output)["cri-proxy"] == cri_proxy.__version__


def test_every_problem_of_the_settings_is_a_line_and_the_code_is_that_of_usage(commands):
    done = commands.in_pipe("environments", "--set=log.level=loud", CRI_PROXY_STORE_WORKERS="many")

    assert done.code == 2
    assert done.output == ""
    assert len(done.errors.splitlines()) == 2
    assert all(line.startswith("error: ") for line in done.errors.splitlines())


def test_version_is_told_even_if_the_settings_are_wrong(commands):
    done = commands.in_pipe("version", CRI_PROXY_STORE_WORKERS="many")

    assert done.code == 0
    assert f"cri-proxy  {cri_proxy.__version__}" in done.output
    assert "grpcio" in done.output


def test_all_settings_are_told_on_demand(commands):
    done = commands.in_pipe("check", "--help-settings")

    assert done.code == 0
    assert "store.public_keys   CRI_PROXY_STORE_PUBLIC_KEYS" in done.output


def test_an_error_is_red_at_a_terminal(commands):
    done = commands.at_terminal("realize", "nonsense")

    assert done.code == 2
    assert "\x1b[1;31merror:\x1b[0m 'nonsense' is not an environment reference" in done.output


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_an_error_has_no_colour_where_none_is_wanted(commands, variables):
    done = commands.at_terminal("realize", "nonsense", **variables)

    assert "\x1b" not in done.output
    assert "error: 'nonsense'" in done.output


def test_a_reader_that_has_seen_enough_is_no_error_worth_a_traceback(commands):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "cri_proxy", "version"],
            cwd=ROOT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )

    assert done.stderr == b""
    assert done.returncode == 1
