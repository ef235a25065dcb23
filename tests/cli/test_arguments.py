"""The command line, parsed: commands, options and settings."""

import json
from dataclasses import replace

import pytest

import cri_proxy
from cri_proxy.cli import arguments, exits
from cri_proxy.cli.arguments import Invocation
from cri_proxy.cli.commands import COMMANDS


def test_help_lists_commands_and_exit_codes(commands):
    done = commands.in_pipe("--help")

    assert done.code == 0
    for word in ("serve", "check", "realize", "environments", "version", "exit codes:", "130"):
        assert word in done.output
    assert "worker" not in done.output


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_its_own_help_and_the_exit_codes(commands, command):
    done = commands.in_pipe(command, "--help")

    assert done.code == 0
    assert done.output.startswith(f"usage: cri-proxy {command} ")
    assert "exit codes:" in done.output


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
def test_a_mistyped_option_is_answered_with_the_one_that_was_meant(commands, arguments):
    done = commands.in_pipe(*arguments)

    assert done.code == 2
    assert "error: unknown option --confg; did you mean --config?" in done.errors


def test_settings_may_be_given_before_and_after_the_command(commands):
    more = ("--set", "log.level=debug", "check", "--set", "log.format=text", "--json")
    found = json.loads(commands.in_pipe(*more).output)["settings"]

    sources = {each["key"]: each["source"] for each in found}
    assert (sources["log.level"], sources["log.format"]) == ("--set", "--set")


def test_an_option_may_stand_before_the_command(commands):
    done = commands.in_pipe("--json", "--set", "log.level=debug", "version")

    assert json.loads(done.output)["cri-proxy"] == cri_proxy.__version__


def test_all_settings_are_listed_on_demand(commands):
    done = commands.in_pipe("check", "--help-settings")

    assert done.code == 0
    assert "store.public_keys   CRI_PROXY_STORE_PUBLIC_KEYS" in done.output


@pytest.mark.parametrize(
    ("argv", "invocation"),
    [
        ("serve", Invocation("serve")),
        ("serve --replace", Invocation("serve", is_replacing=True)),
        ("check --json", Invocation("check", is_json=True)),
        ("realize a/b c/d:7", Invocation("realize", references=["a/b", "c/d:7"])),
        ("realize --mode dev a/b", Invocation("realize", references=["a/b"], mode="dev")),
        ("gc --dry-run", Invocation("gc", is_dry_run=True)),
        ("store verify --repair", Invocation("store", does_repair=True)),
        ("trace web --count 7", Invocation("trace", pod="web", count=7)),
        ("trace --html=f", Invocation("trace", html="f")),
        ("install --root /x --within 7", Invocation("install", root="/x", seconds=7.0)),
        ("install --dry-run", Invocation("install", is_dry_run=True)),
        ("uninstall --purge", Invocation("uninstall", is_purging=True)),
    ],
)
def test_every_option_arrives_in_its_field(argv, invocation):
    assert arguments.parse(argv.split()) == invocation


@pytest.mark.parametrize(
    "argv", ["--config /f --set a.b=1 --set c=2 check", "check --config=/f --set a.b=1 --set=c=2"]
)
def test_config_and_set_may_stand_on_either_side(argv):
    expected = replace(Invocation("check"), config="/f", overrides=["a.b=1", "c=2"])

    assert arguments.parse(argv.split()) == expected


def test_what_is_set_on_both_sides_of_the_command_is_kept_in_order():
    before, after = ["--set", "a=1", "--config", "/f"], ["--set", "b=2", "--config", "/g"]

    invocation = arguments.parse([*before, "check", *after])

    assert (invocation.overrides, invocation.config) == (["a=1", "b=2"], "/g")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("version more", "unexpected argument 'more'"),
        ("check --set", "argument --set: expected one argument"),
        ("realize", "the following arguments are required: REF"),
        ("realize a/b --mode fast", "argument --mode: invalid choice: 'fast'"),
        ("--xyzzy check", "unknown option --xyzzy"),
        ("--xyzzy", "unknown option --xyzzy"),
        ("check --js", "unknown option --js; did you mean --json?"),
        ("-x check", "unknown option -x"),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_sentence(capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        arguments.parse(argv.split())

    error, advice = capsys.readouterr().err.splitlines()
    assert caught.value.code == exits.USAGE
    assert error.startswith(f"error: {message}")
    assert advice.startswith("see cri-proxy")
    assert advice.endswith(" --help")


def test_the_version_is_printed_without_a_command(capsys):
    with pytest.raises(SystemExit) as caught:
        arguments.parse(["--version"])

    assert caught.value.code == exits.OK
    assert capsys.readouterr().out == f"cri-proxy {cri_proxy.__version__}\n"
