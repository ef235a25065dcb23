"""The waterfall as text: a line per span with a bar to scale, `●` on the critical path."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cri_proxy.cli import numbers, screen
from cri_proxy.cli.waterfall import rows
from cri_proxy.cli.waterfall.rows import Row
from cri_proxy.model.traces import StoredTrace

if TYPE_CHECKING:
    from rich.text import Text

_PIPE_COLUMNS: Final = 120
_LEAST_BAR: Final = 12
_NAMES_AT_MOST: Final = 38
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_COLOURS: Final = {"server": "cyan", "client": "blue", "internal": "green"}
_STATE_STYLES: Final = {"in progress": "yellow", "failed": "bold red", "started": "green"}


def show(found: Sequence[StoredTrace]) -> None:
    """Print the traces in the given order."""
    console = screen.console(sys.stdout)
    width = console.width if screen.is_terminal(sys.stdout) else _PIPE_COLUMNS
    for number, trace in enumerate(found):
        if number:
            console.print()
        console.print(_head(trace), soft_wrap=True)
        lines = rows.of_trace(trace)
        names = min(_NAMES_AT_MOST, max(2 * row.depth + len(row.label) for row in lines))
        for row in lines:
            console.print(_line(row, lines[0], width, names), soft_wrap=True, crop=False)


def _head(trace: StoredTrace) -> Text:
    """Return the heading of a waterfall: pod, duration, outcome, age and trace."""
    from rich.text import Text

    startup = trace.startup
    state = rows.state_of(trace)
    attempt = f", sandbox {startup.attempt}" if startup.attempt else ""
    age = numbers.ago(time.time() - startup.started / 1e9)
    return Text.assemble(
        (startup.pod, "bold"),
        (f"  {duration(trace.seconds)}  ", "bold"),
        (state, _STATE_STYLES[state]),
        (f"  {age}{attempt}  trace {startup.trace_id}", "dim"),
    )


def _line(row: Row, whole: Row, width: int, names: int) -> Text:
    from rich.text import Text

    colour = "red" if row.has_failed else _COLOURS.get(row.span.kind, "green")
    name = f"{'  ' * row.depth}{row.label}"
    if len(name) > names:
        name = f"{name[: names - 1]}…"
    took = duration(row.span.seconds)
    bar_width = max(_LEAST_BAR, (width - names - 14) // 2)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("● " if row.is_critical else "  ", "bold yellow")
    text.append(f"{name:<{names}}", "bold" if row.is_critical else "")
    text.append(f" {took:>9} ", "bold" if row.is_critical else "dim")
    text.append(bar(row.start, row.end, max(1, whole.end), bar_width), colour)
    if row.note:
        text.append(f" {row.note}", "red" if row.has_failed else "dim")
    text.truncate(width, overflow="ellipsis")
    return text


def bar(start: int, end: int, whole: int, width: int) -> str:
    """Return `width` characters with a bar from `start` to `end` of `whole`, never empty."""
    first = min(max(0.0, start / whole), 1.0) * width
    last = min(max(first, min(end / whole, 1.0) * width), float(width))
    cells = []
    for cell in range(width):
        covered = min(last, cell + 1) - max(first, cell)
        cells.append(_EIGHTHS[round(max(0.0, covered) * 8)])
    if not "".join(cells).strip():
        cells[min(int(first), width - 1)] = _EIGHTHS[1]
    return "".join(cells)


def duration(seconds: float) -> str:
    """Return a duration down to microseconds: `840 µs`, `12 ms`, `2.31 s`."""
    if not seconds:
        return "0 s"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else numbers.duration(seconds)
