"""The program as a whole: errors, exit codes and a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    "arguments", [("--set", "stroe.root=/x", "check"), ("check", "--set=stroe.root=/x")]
)
def test_a_mistyped_key_is_answered_with_the_one_that_was_meant(commands, arguments):
    done = commands.in_pipe(*arguments)

    assert done.code == 2
    assert done.errors == "error: --set: unknown key stroe.root; did you mean store.root?\n"


def test_every_problem_of_the_settings_is_a_line_and_the_code_is_that_of_usage(commands):
    done = commands.in_pipe("environments", "--set=log.level=loud", CRI_PROXY_STORE_WORKERS="many")

    assert done.code == 2
    assert done.output == ""
    assert len(done.errors.splitlines()) == 2
    assert all(line.startswith("error: ") for line in done.errors.splitlines())


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
