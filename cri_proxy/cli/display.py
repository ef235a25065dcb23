"""Realizations as they are watched: a bar each on a terminal, a line now and then in a pipe.

`follow` runs until every track has its outcome. It only reads the realizer's counters, ten times a
second, and writes to standard error; the results themselves are for the caller to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from cri_proxy import errors
from cri_proxy.cli import numbers, screen
from cri_proxy.model.environments import Environment
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.references import Reference

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import TaskID, TextColumn

_TICK_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 5.0
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40


class Realization(Protocol):
    """What the realizer hands out: its `progress` may become another's who does the same work."""

    @property
    def progress(self) -> Progress:
        """The counters, now."""

    async def wait(self) -> Environment:
        """Return the environment, or raise CriProxyError."""


@dataclass(slots=True)
class Track:
    """One reference on its way; `outcome` is set once, with `seconds` that it took."""

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
        """What is being done now, in the words of a refusal for lack of time."""
        match self.outcome:
            case None:
                return str(self.realization.progress)
            case errors.CriProxyError():
                return "failed"
            case _:
                return str(Phase.READY)


async def follow(tracks: Sequence[Track]) -> None:
    """Show the tracks until all have an outcome."""
    show = _bars if screen.is_watched(sys.stderr) else _lines
    async with asyncio.TaskGroup() as group:
        waiting = {group.create_task(track.run()) for track in tracks}
        with show(tracks) as update:
            while waiting:
                _, waiting = await asyncio.wait(waiting, timeout=_TICK_SECONDS)
                update.now()


class _Update(Protocol):
    def now(self) -> None: ...


@dataclass(slots=True)
class _Lines:
    """A line when the phase changes, and every few seconds while store paths come in."""

    tracks: Sequence[Track]
    told: dict[Reference, tuple[str, float]] = field(default_factory=dict)

    def now(self) -> None:
        moment = time.monotonic()
        for track in self.tracks:
            state = track.state
            before, when = self.told.get(track.reference, ("", 0.0))
            has_turned = state.split(" ")[0] != before.split(" ")[0]
            if has_turned or (state != before and moment - when >= _LINE_SECONDS):
                self.told[track.reference] = (state, moment)
                print(f"{track.reference}: {state}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class _Drawing:
    """A bar of bytes for every track."""

    bars: Bars
    tasks: Sequence[tuple[TaskID, Track]]

    def now(self) -> None:
        for task, track in self.tasks:
            progress = track.realization.progress
            is_fetching = track.outcome is None and progress.phase is Phase.FETCHING
            if track.outcome is None:
                done, total = progress.bytes_done, progress.bytes_total or None
            else:
                done, total = int(isinstance(track.outcome, Environment)), 1
            self.bars.update(
                task,
                completed=done,
                total=total,
                paths=f"{progress.paths_done}/{progress.paths_total} paths" if is_fetching else "",
                bytes=track.state.rpartition(", ")[2],
            )
        self.bars.refresh()


@contextlib.contextmanager
def _lines(tracks: Sequence[Track]) -> Iterator[_Update]:
    lines = _Lines(tracks)
    lines.now()
    yield lines


@contextlib.contextmanager
def _bars(tracks: Sequence[Track]) -> Iterator[_Update]:
    """Draw the bars, and take them away at the end: the results say the same and more."""
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Mark(SpinnerColumn):
        """A spinner, then whether it went well."""

        def render(self, task: Task) -> RenderableType:
            match task.fields["track"].outcome:
                case None:
                    return super().render(task)
                case Environment():
                    return Text("✔", "bold green")
                case _:
                    return Text("✘", "bold red")

    class Rate(ProgressColumn):
        """Bytes a second and the time that is left, while that can be told."""

        def render(self, task: Task) -> Text:
            if task.fields["track"].outcome is not None or not task.speed:
                return Text("")
            left = "" if task.time_remaining is None else numbers.clock(task.time_remaining)
            return Text(f"{numbers.size(task.speed)}/s {left}")

    console = screen.console(sys.stderr)
    names = min(max(len(str(track.reference)) for track in tracks), console.width // 2)
    # What there is room for beside the reference, the most telling first.
    room = console.width - names - len("⠋  ")
    columns: list[ProgressColumn] = [_text("{task.fields[bytes]}")]
    room -= len("999.9/999.9 MB ")
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
    bars = Bars(
        Mark(style="cyan"),
        _text("{task.description}", names),
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
    )
    tasks = [
        (bars.add_task(str(track.reference), total=None, paths="", bytes="", track=track), track)
        for track in tracks
    ]
    drawing = _Drawing(bars, tasks)
    with bars:
        drawing.now()
        yield drawing


def _text(template: str, max_width: int | None = None) -> TextColumn:
    """Return a column of text that stays on its line."""
    from rich.progress import TextColumn
    from rich.table import Column

    column = Column(no_wrap=True, overflow="ellipsis", max_width=max_width)
    return TextColumn(template, markup=False, table_column=column)
