"""Output for terminals, and for all that is none."""

import io
import re
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


HEAD = ("REFERENCE", "SIZE", "FATE", "IDENTITY")
ROWS = [
    ("acme/an-environment-with-a-long-name:1", "1 GB", "stays: pin acme/web", "9f2a-acme-web"),
    ("acme/web:12", "12 GB", "removed", "1c8d-acme-old"),
]


def drawn(monkeypatch, width):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", terminal)
    screen.print_table(HEAD, ROWS, numeric={"SIZE"}, wrapped={"FATE"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_a_table_has_its_numbers_on_the_right(monkeypatch):
    assert drawn(monkeypatch, 100) == [
        "REFERENCE                                SIZE  FATE                 IDENTITY",
        "acme/an-environment-with-a-long-name:1   1 GB  stays: pin acme/web  9f2a-acme-web",
        "acme/web:12                             12 GB  removed              1c8d-acme-old",
    ]


def test_a_table_leaves_its_last_column_out_where_there_is_no_room(monkeypatch):
    assert drawn(monkeypatch, 70) == [
        "REFERENCE                                SIZE  FATE",
        "acme/an-environment-with-a-long-name:1   1 GB  stays: pin acme/web",
        "acme/web:12                             12 GB  removed",
    ]


def test_a_narrow_table_shortens_its_first_column_and_wraps_others_by_words(monkeypatch):
    assert drawn(monkeypatch, 50) == [
        "REFERENCE                SIZE  FATE",
        "acme/an-environment-w…   1 GB  stays: pin acme/web",
        "acme/web:12             12 GB  removed",
    ]


def test_a_table_is_aligned_columns_in_a_pipe(capsys):
    screen.print_table(HEAD, ROWS, numeric={"SIZE"}, wrapped={"FATE"})

    assert capsys.readouterr().out == f"{screen.columns([HEAD, *ROWS])}\n"
