"""The table of commands, held against the modules and the fields that it names."""

import argparse
import importlib
from dataclasses import fields

import pytest

from cri_proxy.cli.arguments import Invocation
from cri_proxy.cli.commands import COMMANDS

SHOWN = [command for command in COMMANDS if not command.is_hidden]
WIDEST = max(len(command.name) for command in SHOWN)


def options_of(command):
    parser = argparse.ArgumentParser(add_help=False)
    for add_to in command.options:
        add_to(parser)
    return parser._actions


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.name)
def test_every_command_is_a_module_with_a_function_run(command):
    module = importlib.import_module(f"cri_proxy.cli.{command.name}")

    assert callable(module.run)


def test_no_two_commands_have_the_same_name():
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_a_field_of_the_invocation(command):
    known = {field.name for field in fields(Invocation)} | {"action"}

    assert {option.dest for option in options_of(command)} <= known


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.name)
def test_help_is_a_phrase_for_the_list_and_sentences_for_the_command(command):
    assert len(f"  {command.name:{WIDEST}}  {command.about}") <= 80
    assert command.about[0].islower()
    assert not command.about.endswith(".")
    assert command.description[0].isupper()
    assert command.description.endswith(".")
    assert all(option.help for option in options_of(command))


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_an_invalid_time_is_refused_with_what_to_write(commands, seconds):
    done = commands.in_pipe("install", f"--within={seconds}")

    assert done.code == 2
    assert f"--within: must be a number of seconds above 0, not '{seconds}'" in done.errors


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_an_invalid_count_is_refused_with_what_to_write(commands, count):
    done = commands.in_pipe("trace", f"--count={count}")

    assert done.code == 2
    assert f"--count: must be a whole number of at least 1, not '{count}'" in done.errors
