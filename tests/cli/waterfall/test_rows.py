"""From spans to lines: what stands where, and what the startup waited for."""

from __future__ import annotations

import dataclasses

from cri_proxy.cli.waterfall import rows
from cri_proxy.cli.waterfall.rows import Row
from cri_proxy.model.traces import StoredTrace
from hack.testbed import startups


def row(found: list[Row], label: str, *, last: bool = False) -> Row:
    return [each for each in found if each.label == label][-1 if last else 0]


def test_spans_stand_below_their_parents_in_the_order_of_their_beginning() -> None:
    found = rows.of_trace(startups.startup())

    assert [(each.depth, each.label) for each in found][:8] == [
        (0, "pod.startup"),
        (1, "RunPodSandbox"),
        (2, "realizer.realize"),
        (3, "floxhub.resolve"),
        (3, "store.fetch"),
        (4, "store.survey"),
        (4, "store.fetch_path"),
        (5, "store.unpack"),
    ]


def test_a_span_whose_parent_is_not_here_stands_below_the_startup() -> None:
    whole = startups.startup()
    orphan = dataclasses.replace(whole.spans[3], span_id="f" * 16, parent_id="e" * 16)

    found = rows.of_trace(StoredTrace(whole.startup, (*whole.spans, orphan)))

    assert next(each for each in found if each.span is orphan).depth == 1


def test_spans_that_are_each_others_parents_do_no_harm() -> None:
    whole = startups.startup()
    one = dataclasses.replace(whole.spans[3], span_id="e" * 16, parent_id="f" * 16)
    other = dataclasses.replace(whole.spans[3], span_id="f" * 16, parent_id="e" * 16)

    found = rows.of_trace(StoredTrace(whole.startup, (*whole.spans, one, other)))

    assert len(found) == len(whole.spans)


def test_the_critical_path_crosses_the_link_from_a_wait_to_the_work() -> None:
    found = rows.of_trace(startups.startup())

    critical = {each.label for each in found if each.is_critical}
    assert critical >= {"pod.startup", "StartContainer main", "realizer.realize", "store.fetch"}
    assert critical >= {"store.fetch_path", "realizer.assemble", "realizer.wait"}


def test_what_nothing_waited_for_is_not_critical() -> None:
    found = rows.of_trace(startups.startup())

    assert not row(found, "store.survey").is_critical


def test_notes_have_fetched_paths_bytes_and_tries() -> None:
    found = rows.of_trace(startups.startup())

    realize = row(found, "realizer.realize")
    assert realize.note == "acme/web:7, fetched 120 of 300 paths, 1.2 GB in total"
    assert row(found, "store.fetch").note == "acme/web, 118 smaller paths, 90.0 MB"
    assert row(found, "store.fetch_path").note == "python3-3.12, 180.0 MB"
    assert row(found, "CreateContainer main", last=True).note == "try 2"


def test_a_refused_call_is_shown_with_its_message() -> None:
    refused = row(rows.of_trace(startups.startup()), "CreateContainer main")

    assert refused.has_failed
    assert "UNAVAILABLE, environment acme/web is not on this node yet" in refused.note


def test_a_startup_under_way_ends_where_it_is_known_to_be() -> None:
    trace = startups.startup(is_over=False)

    found = rows.of_trace(trace)

    assert rows.state_of(trace) == "in progress"
    assert found[0].end == max(each.end for each in found[1:])


def test_a_startup_of_which_nothing_has_ended_is_a_row() -> None:
    whole = startups.startup()

    assert len(rows.of_trace(StoredTrace(whole.startup, ()))) == 1
