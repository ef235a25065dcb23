"""Output for terminals, and for all that is none."""

import io
import sys

import pytest

from cri_proxy.cli import screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_an_error_is_red_at_a_terminal(commands):
    done = commands.at_terminal("realize", "nonsense")

    assert done.code == 2
    assert "\x1b[1;31merror:\x1b[0m 'nonsense' is not an environment reference" in done.output


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_an_error_has_no_colour_where_none_is_wanted(commands, variables):
    done = commands.at_terminal("realize", "nonsense", **variables)

    assert "\x1b" not in done.output
    assert "error: 'nonsense'" in done.output


@pytest.mark.parametrize(
    ("stream", "term", "is_terminal"),
    [
        (Terminal(), "xterm", True),
        (Terminal(), "dumb", False),
        (Terminal(), None, False),
        (io.StringIO(), "xterm", False),
    ],
)
def test_a_terminal_is_one_that_understands_escape_codes(monkeypatch, stream, term, is_terminal):
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)

    assert screen.is_terminal(stream) is is_terminal


def test_each_line_of_an_error_is_marked(capsys):
    screen.print_error("one\ntwo")

    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_columns_are_aligned_and_nothing_is_cut():
    rows = [("NAME", "SIZE"), ("a", "1 GB"), ("a-longer-name", "")]

    assert screen.columns(rows).splitlines() == [
        "NAME           SIZE",
        "a              1 GB",
        "a-longer-name",
    ]


def test_a_console_prints_brackets_and_numbers_as_they_are(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()

    screen.console(terminal).print("[bold]127.0.0.1[/bold] :smile:")

    assert terminal.getvalue() == "[bold]127.0.0.1[/bold] :smile:\n"


def test_a_spinner_is_silent_in_a_pipe(capsys):
    with screen.spinner("working"):
        pass

    assert capsys.readouterr() == ("", "")


def test_a_spinner_turns_at_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal)

    with screen.spinner("working"):
        pass

    assert "working" in terminal.getvalue()
