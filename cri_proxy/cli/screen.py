"""Terminal output: what is written to a stream depends on whether it is a terminal.

A terminal gets colours, bars and tables (by rich, imported only then); a pipe, a file or a dumb
terminal gets plain lines without escape codes. NO_COLOR is honoured, see no-color.org.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def is_terminal(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal that understands escape codes."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def console(stream: TextIO) -> Console:
    """Return a rich console for `stream` that adds no colour or markup of its own."""
    from rich.console import Console

    return Console(
        file=stream,
        force_terminal=is_terminal(stream),
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True if os.environ.get("NO_COLOR") else None,
    )


def spinner(text: str) -> contextlib.AbstractContextManager[object]:
    """Show a spinner with `text` on standard error, if it is a terminal, while the body runs."""
    if not is_terminal(sys.stderr):
        return contextlib.nullcontext()
    return console(sys.stderr).status(text)


def print_error(message: str) -> None:
    """Print each line of an error message to standard error, with a mark in front."""
    is_red = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
    mark = "\x1b[1;31merror:\x1b[0m" if is_red else "error:"
    for line in message.splitlines():
        print(mark, line, file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value for programs to standard output."""
    print(json.dumps(value, indent=2))


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Container[str],
    wrapped: Container[str] = (),
) -> None:
    """Print a table to standard output: one that fits a terminal, or aligned columns in a pipe.

    `numeric` columns are aligned right. Where the terminal is too narrow, the last column is left
    out, then the first one is shortened and `wrapped` ones are wrapped.
    """
    lines = [head, *rows]
    text = columns(lines)
    if not is_terminal(sys.stdout):
        print(text)
        return
    from rich.table import Table

    terminal = console(sys.stdout)
    shown = len(head) - (max(map(len, text.splitlines())) > terminal.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head[:shown]:
        table.add_column(
            name,
            justify="right" if name in numeric else "left",
            no_wrap=name not in wrapped and name != head[0],
            overflow="fold" if name in wrapped else "ellipsis",
            style="dim" if name == head[-1] else None,
        )
    for row in lines[1:]:
        table.add_row(*row[:shown])
    terminal.print(table)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as text in aligned columns, two spaces apart, nothing cut or wrapped."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells
    )
