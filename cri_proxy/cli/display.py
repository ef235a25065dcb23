"""The progress display of `realize`: a bar per realization at a terminal, plain lines in a pipe.

`follow` runs until every attempt has an outcome. It only reads the realizer's counters, ten times a
second, and writes to standard error; printing the results is the caller's task.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cri_proxy import errors
from cri_proxy.cli import numbers, screen
from cri_proxy.model.environments import Environment
from cri_proxy.model.progress import Phase
from cri_proxy.model.references import Reference

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TextColumn

    from cri_proxy.realizer.realizer import Realization

_UPDATE_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 5.0
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40


@dataclass(slots=True)
class Attempt:
    """The realization of one reference; `run` sets its outcome and the seconds that it took."""

    reference: Reference
    realization: Realization
    started: float = field(default_factory=time.monotonic)
    outcome: Environment | errors.CriProxyError | None = None
    seconds: float = 0.0

    async def run(self) -> None:
        """Wait for the outcome."""
        try:
            self.outcome = await self.realization.wait()
        except errors.CriProxyError as error:
            self.outcome = error
        self.seconds = time.monotonic() - self.started

    @property
    def state(self) -> str:
        """What is being done now, in the words of a StillRealizing error."""
        if self.outcome is None:
            return str(self.realization.progress)
        return "ready" if isinstance(self.outcome, Environment) else "failed"


async def follow(attempts: Sequence[Attempt]) -> None:
    """Show the attempts until all have an outcome."""
    show = _bars if screen.is_terminal(sys.stderr) else _lines
    async with asyncio.TaskGroup() as group:
        waiting = {group.create_task(attempt.run()) for attempt in attempts}
        with show(attempts) as update:
            while waiting:
                _, waiting = await asyncio.wait(waiting, timeout=_UPDATE_SECONDS)
                update()


@contextlib.contextmanager
def _lines(attempts: Sequence[Attempt]) -> Iterator[Callable[[], None]]:
    """Print a line when the phase changes, and every few seconds while store paths arrive."""
    printed: dict[Reference, tuple[str, float]] = {}

    def update() -> None:
        now = time.monotonic()
        for attempt in attempts:
            state = attempt.state
            before, when = printed.get(attempt.reference, ("", 0.0))
            is_new_phase = state.split(" ")[0] != before.split(" ")[0]
            if is_new_phase or (state != before and now - when >= _LINE_SECONDS):
                printed[attempt.reference] = (state, now)
                print(f"{attempt.reference}: {state}", file=sys.stderr, flush=True)

    update()
    yield update


@contextlib.contextmanager
def _bars(attempts: Sequence[Attempt]) -> Iterator[Callable[[], None]]:
    """Draw a bar of bytes for every attempt, and erase them at the end."""
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Mark(SpinnerColumn):
        """A spinner, then a mark for success or failure."""

        def render(self, task: Task) -> RenderableType:
            outcome = task.fields["attempt"].outcome
            if outcome is None:
                return super().render(task)
            is_ready = isinstance(outcome, Environment)
            return Text("✔", "bold green") if is_ready else Text("✘", "bold red")

    class Rate(ProgressColumn):
        """Bytes per second and the remaining time, once they can be estimated."""

        def render(self, task: Task) -> Text:
            if task.fields["attempt"].outcome is not None or not task.speed:
                return Text("")
            left = "" if task.time_remaining is None else numbers.clock(task.time_remaining)
            return Text(f"{numbers.size(task.speed)}/s {left}")

    console = screen.console(sys.stderr)
    names = min(max(len(str(attempt.reference)) for attempt in attempts), console.width // 2)
    # Columns that fit beside the reference, the most important first.
    room = console.width - names - len("⠋  999.9/999.9 MB ")
    columns: list[ProgressColumn] = [_text("{task.fields[bytes]}")]
    if room >= (width := len("9999/9999 paths ")):
        columns.insert(0, _text("{task.fields[paths]}"))
        room -= width
    if room >= (width := len("999.9 MB/s 59:59 ")) + _SHORTEST_BAR:
        columns.append(Rate(table_column=Column(no_wrap=True)))
        room -= width
    if room > _SHORTEST_BAR:
        bar = BarColumn(
            bar_width=min(_LONGEST_BAR, room - 1),
            complete_style="cyan",
            finished_style="green",
            pulse_style="cyan",
        )
        columns.insert(0, bar)
    bars = Progress(
        Mark(style="cyan"),
        _text("{task.description}", names),
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
    )
    tasks = [
        (bars.add_task(str(each.reference), total=None, paths="", bytes="", attempt=each), each)
        for each in attempts
    ]

    def update() -> None:
        for task, attempt in tasks:
            progress = attempt.realization.progress
            is_fetching = attempt.outcome is None and progress.phase is Phase.FETCHING
            if attempt.outcome is None:
                done, total = progress.bytes_done, progress.bytes_total or None
            else:
                done, total = int(isinstance(attempt.outcome, Environment)), 1
            bars.update(
                task,
                completed=done,
                total=total,
                paths=f"{progress.paths_done}/{progress.paths_total} paths" if is_fetching else "",
                bytes=attempt.state.rpartition(", ")[2],
            )
        bars.refresh()

    with bars:
        update()
        yield update


def _text(template: str, max_width: int | None = None) -> TextColumn:
    """Return a text column that is cut rather than wrapped."""
    from rich.progress import TextColumn
    from rich.table import Column

    column = Column(no_wrap=True, overflow="ellipsis", max_width=max_width)
    return TextColumn(template, markup=False, table_column=column)
