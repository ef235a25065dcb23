"""Figures: measured values and the limits for them, as a table and as JSON.

A benchmark yields its figures as it measures them; `main` parses the common arguments, logs the
progress and prints the result. The values of two sides, in seconds or another unit, give a ratio; a
figure without another side is compared with the limit itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a report.

    `ours` and `theirs` are in `unit`; `against` names the other side. `value` must be at most
    `limit`, or at least `limit` with `is_floor`; None means no limit.
    """

    name: str
    unit: str
    ours: float
    theirs: float | None = None
    against: str = ""
    limit: float | None = None
    is_floor: bool = False
    note: str = ""

    @property
    def value(self) -> float:
        """The ratio of ours to theirs, or ours if there is no other side."""
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def is_reached(self) -> bool | None:
        """Whether the value is within the limit; None without a limit."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.is_floor else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Options:
    """The options common to all benchmarks."""

    is_quick: bool
    is_json: bool
    python: str = sys.executable
    """The interpreter of our side, where a benchmark supports it: a release contains its own."""

    def log(self, text: str) -> None:
        """Print progress on standard error."""
        print(f"  {text}", file=sys.stderr, flush=True)


Measure = Callable[[Options], Iterable[Figure]]


def main(bench: str, argv: Sequence[str], measure: Measure) -> int:
    """Run a benchmark with its arguments and print its figures; return the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m hack.bench {bench}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter for our side of the store benchmark: bin/python3 of a release",
    )
    arguments = parser.parse_args(argv)
    options = Options(arguments.quick, arguments.json, arguments.python)
    begun, load = time.monotonic(), os.getloadavg()[0]
    options.log(f"{bench}, on {machine()}, load {load:.1f}")
    found = []
    for figure in measure(options):
        found.append(figure)
        options.log(f"{figure.name}: {_text_of(figure)}")
    surroundings = {
        "bench": bench,
        "quick": options.is_quick,
        "machine": machine(),
        "seconds": round(time.monotonic() - begun, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }
    if options.is_json:
        print(json.dumps({**surroundings, "figures": [_json_of(each) for each in found]}))
    else:
        _show(found, surroundings)
    return 0


def machine() -> str:
    """Describe this machine: processors, memory, kernel."""
    cores = len(os.sched_getaffinity(0))
    kilobytes = int(_field_of(Path("/proc/meminfo"), "MemTotal").split()[0])
    model = _field_of(Path("/proc/cpuinfo"), "model name")
    memory = f"{kilobytes / 1024 / 1024:.0f} GiB"
    return f"{cores} cores ({model}), {memory}, Linux {platform.release()}"


def _show(found: Sequence[Figure], surroundings: dict[str, object]) -> None:
    table = Table(box=None, title_justify="left", caption_justify="left")
    table.title = f"{surroundings['bench']}: {surroundings['seconds']} s"
    table.caption = f"{surroundings['machine']}; load before and after {surroundings['load']}"
    for heading in ("", "ours", "theirs", "ratio", "to reach", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for each in found:
        theirs = "" if each.theirs is None else f"{_number(each.theirs)} {each.unit}"
        table.add_row(
            f"{each.name}, against {each.against}" if each.against else each.name,
            f"{_number(each.ours)} {each.unit}",
            theirs,
            "" if each.theirs is None else _number(each.value),
            "" if each.limit is None else f"{'≥' if each.is_floor else '≤'} {each.limit:g}",
            {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[each.is_reached]
            + (f" {each.note}" if each.note else ""),
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _text_of(figure: Figure) -> str:
    text = f"{_number(figure.ours)} {figure.unit}"
    if figure.theirs is not None:
        other = f"{_number(figure.theirs)} of {figure.against}"
        text += f" to {other}, ratio {_number(figure.value)}"
    return text


def _json_of(figure: Figure) -> dict[str, object]:
    return {**asdict(figure), "value": figure.value, "is_reached": figure.is_reached}


def _number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _field_of(file: Path, name: str) -> str:
    """Return the value of the field `name:` in a file of /proc."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
