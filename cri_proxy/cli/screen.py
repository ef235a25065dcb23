"""The terminal, if there is one: who reads a stream decides what is written to it.

A person at a terminal gets colour, bars and tables (by rich, imported only then); a pipe, a file or
a dumb terminal gets plain lines without an escape code. NO_COLOR is honoured, see no-color.org.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_RED: Final = "\x1b[1;31m"
_PLAIN: Final = "\x1b[0m"


def is_watched(stream: TextIO) -> bool:
    """Whether a person sees `stream` on a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def console(stream: TextIO) -> Console:
    """Return rich's console for `stream`; it colours nothing that it is not told to."""
    from rich.console import Console

    return Console(
        file=stream,
        force_terminal=is_watched(stream),
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True if os.environ.get("NO_COLOR") else None,
    )


def print_error(message: str) -> None:
    """Write a refusal to standard error, each of its lines marked and on one line."""
    is_red = is_watched(sys.stderr) and not os.environ.get("NO_COLOR")
    mark = f"{_RED}error:{_PLAIN}" if is_red else "error:"
    for line in message.splitlines():
        print(mark, line, file=sys.stderr)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as text in aligned columns, two spaces apart, nothing cut or wrapped."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells
    )
