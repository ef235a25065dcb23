"""The progress display, at terminals of all kinds and in a pipe."""

import asyncio

import pytest

from cri_proxy import errors, settings
from cri_proxy.cli import display
from cri_proxy.model import references
from cri_proxy.model.environments import Mode
from cri_proxy.model.progress import Phase, Progress
from tests.cli.stand_in import environment_of


class Realization:
    """A realization that goes as far as the test lets it."""

    def __init__(self, name):
        self.reference = references.parse(name)
        self.progress = Progress()
        self._outcome = asyncio.get_running_loop().create_future()

    async def wait(self):
        return await self._outcome

    def succeed(self):
        environment = environment_of(self.reference, Mode.RUN, settings.Settings())
        self.progress.phase = Phase.READY
        self._outcome.set_result(environment)

    def fail(self):
        self._outcome.set_exception(errors.NotFound("not on FloxHub"))


async def test_an_attempt_has_the_outcome_of_its_realization():
    succeeding, failing = Realization("a/b"), Realization("c/d")
    attempts = [display.Attempt(each.reference, each) for each in (succeeding, failing)]
    states = [attempt.state for attempt in attempts]
    succeeding.succeed()
    failing.fail()

    await display.follow(attempts)

    assert states == ["resolving", "resolving"]
    assert [attempt.state for attempt in attempts] == ["ready", "failed"]
    assert str(attempts[0].outcome.reference) == "a/b:12"
    assert str(attempts[1].outcome) == "not on FloxHub"
    assert all(attempt.seconds > 0 for attempt in attempts)


async def test_a_bug_is_not_an_outcome():
    realization = Realization("a/b")
    realization._outcome.set_exception(ZeroDivisionError())

    with pytest.raises(ExceptionGroup):
        await display.follow([display.Attempt(realization.reference, realization)])


async def test_a_pipe_gets_a_line_for_each_phase(capsys):
    realization = Realization("a/b")
    attempt = display.Attempt(realization.reference, realization)
    with display._lines([attempt]) as update:
        update()
        realization.progress.phase = Phase.FETCHING
        realization.progress.paths_total = 3
        update()
        realization.progress.phase = Phase.READY
        update()

    assert capsys.readouterr().err.splitlines() == [
        "a/b: resolving",
        "a/b: fetching 0/3 paths, 0.0/0.0 MB",
        "a/b: ready",
    ]


async def test_progress_within_a_phase_is_not_a_line_at_once(capsys):
    realization = Realization("a/b")
    realization.progress.phase = Phase.FETCHING
    attempt = display.Attempt(realization.reference, realization)
    with display._lines([attempt]) as update:
        realization.progress.paths_done = 2
        update()

    assert capsys.readouterr().err.count("\n") == 1


def test_each_reference_has_a_bar_at_a_terminal_which_is_gone_in_the_end(stand_in):
    done = stand_in("realize", "a/b", "c/d")

    assert done.code == 0
    assert "━" in done.output
    assert "/300 paths" in done.text
    assert "MB/s" in done.text
    shown = done.text.replace("\r", "").splitlines()
    assert any(line.startswith("✔ a/b:12  300 paths, 1.2 GB, 300 fetched") for line in shown)
    assert any(line.startswith("✔ c/d:12  300 paths") for line in shown)


def test_a_narrow_terminal_shows_less_and_wraps_nothing(stand_in):
    done = stand_in("realize", "acme/a-rather-long-name", size=(24, 50))

    drawn = [line for line in done.text.split("\r") if "acme/a-rather-long-name " in line]
    assert done.code == 0
    assert drawn
    assert all("paths" not in line for line in drawn)


def test_a_dumb_terminal_gets_plain_lines(stand_in):
    done = stand_in("realize", "a/b", TERM="dumb")

    assert done.code == 0
    assert "\x1b" not in done.output
    assert "a/b: ready" in done.output


def test_no_color_keeps_the_bars_and_drops_the_colours(stand_in):
    done = stand_in("realize", "a/b", NO_COLOR="1")

    assert "━" in done.output
    assert "\x1b[3" not in done.output
