"""`trace` as it is run: what it finds, and in which form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hack.testbed import startups
from tests.cli.conftest import Commands


@pytest.fixture
def kept(commands: Commands) -> Commands:
    """A node with three startups, the last of which is in progress."""
    startups.write(
        commands.root,
        [
            startups.startup(1, name="old", failure="no such image"),
            startups.startup(2, name="web"),
            startups.startup(3, name="new", is_over=False),
        ],
    )
    return commands


def heads(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("shop/")]


def test_startups_are_shown_newest_first(kept: Commands) -> None:
    done = kept.in_pipe("trace")

    names = [line.split()[0] for line in heads(done.output)]
    assert (done.code, names) == (0, ["shop/new", "shop/web", "shop/old"])


def test_a_head_tells_duration_and_outcome(kept: Commands) -> None:
    new, web, old = heads(kept.in_pipe("trace").output)

    assert "in progress" in new
    assert "3.30 s  started" in web
    assert "failed" in old


def test_what_was_waited_for_is_marked(kept: Commands) -> None:
    output = kept.in_pipe("trace", "web").output

    lines = {line.lstrip("● ").split()[0]: line for line in output.splitlines()[1:]}
    assert lines["store.fetch_path"].startswith("●")
    assert lines["store.survey"].startswith("  ")


@pytest.mark.parametrize(
    "pod", ["web", "shop/web", "00000000-0000-4000-8000-000000000002", f"{2:032x}"]
)
def test_a_pod_is_found_by_name_uid_or_trace(kept: Commands, pod: str) -> None:
    (head,) = heads(kept.in_pipe("trace", pod).output)

    assert head.startswith("shop/web")


def test_an_unknown_pod_is_refused_with_advice(kept: Commands) -> None:
    done = kept.in_pipe("trace", "unknown")

    assert done.code == 1
    assert "none of the 3 startups" in done.errors
    assert "namespace/name" in done.errors


def test_a_count_limits_what_is_shown(kept: Commands) -> None:
    assert len(heads(kept.in_pipe("trace", "--count=1").output)) == 1


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_an_invalid_count_is_refused(kept: Commands, count: str) -> None:
    done = kept.in_pipe("trace", f"--count={count}")

    assert done.code == 2
    assert (
        f"error: argument --count: must be a whole number of at least 1, not '{count}'"
        in done.errors
    )


def test_json_has_every_span(kept: Commands) -> None:
    records = json.loads(kept.in_pipe("trace", "--json", "web").output)

    (record,) = records
    assert record["name"] == "web"
    assert record["seconds"] == pytest.approx(3.3)
    assert record["is_over"] is True
    assert {"realizer.realize", "pod.startup"} <= {span["name"] for span in record["spans"]}
    assert any(span["is_critical"] for span in record["spans"])


def test_a_page_is_written_beside_nothing_else(kept: Commands, tmp_path: Path) -> None:
    done = kept.in_pipe("trace", "--html", str(tmp_path / "page.html"))

    assert (done.code, done.output) == (0, "")
    assert "shop/web" in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_written_is_a_refusal(kept: Commands, tmp_path: Path) -> None:
    done = kept.in_pipe("trace", "--html", str(tmp_path / "nowhere" / "page.html"))

    assert done.code == 1
    assert "Traceback" not in done.errors


def test_a_terminal_gets_colours_and_lines_that_fit(kept: Commands) -> None:
    done = kept.at_terminal("trace", "web", size=(60, 90))

    assert "\x1b[" in done.output
    assert max(map(len, done.text.splitlines()[1:])) <= 90


@pytest.mark.parametrize(("pods", "code"), [([], 0), (["web"], 1)])
def test_a_node_that_keeps_nothing_says_so(commands: Commands, pods: list[str], code: int) -> None:
    done = commands.in_pipe("trace", *pods)

    assert (done.code, done.output) == (code, "")
    assert "no startup is recorded" in done.errors
