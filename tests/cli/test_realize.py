"""`realize` with a small realizer in the daemon's place; the real one is tried with real pods."""

import json


def test_results_go_to_standard_output_in_the_order_asked_for(commands):
    done = commands.in_pipe("realize", "a/slow", "a/present:3", is_stand_in=True)

    slow, present = done.output.splitlines()
    assert done.code == 0
    assert slow.startswith(f"a/slow:12: {commands.root}/environments/slow")
    assert "300 paths, 1.2 GB, 300 fetched, " in slow
    assert "a/present:3: " in present
    assert "all already present" in present


def test_progress_is_plain_lines_in_a_pipe(commands):
    done = commands.in_pipe("realize", "a/b", is_stand_in=True)

    lines = done.errors.splitlines()
    assert "\x1b" not in done.errors + done.output
    assert lines[0] == "a/b: resolving"
    assert lines[1].startswith("a/b: fetching ")
    assert lines[-1] == "a/b: ready"


def test_one_that_fails_does_not_stop_the_others(commands):
    done = commands.in_pipe("realize", "a/absent", "a/b", is_stand_in=True)

    assert done.code == 1
    assert done.output.startswith("a/b:12: ")
    assert "error: environment a/absent is not on FloxHub: push it" in done.errors


def test_a_failure_that_may_pass_has_a_code_of_its_own(commands):
    done = commands.in_pipe("realize", "a/away", is_stand_in=True)

    assert done.code == 3
    assert "error: a/away: https://hub.flox.dev gave no answer: try later" in done.errors


def test_a_lasting_failure_outweighs_one_that_may_pass(commands):
    assert commands.in_pipe("realize", "a/away", "a/absent", is_stand_in=True).code == 1


def test_a_last_known_generation_is_marked(commands):
    done = commands.in_pipe("realize", "a/stale", is_stand_in=True)

    assert "FloxHub did not answer: last known generation" in done.output


def test_json_has_an_object_for_each_reference(commands):
    done = commands.in_pipe("realize", "--json", "a/b", "a/absent", is_stand_in=True)

    made, refused = json.loads(done.output)
    assert done.code == 1
    assert made["asked"] == "a/b"
    assert made["reference"] == "a/b:12"
    assert made["directory"] == f"{commands.root}/environments/{made['identity']}"
    assert (made["paths"], made["paths_fetched"], made["bytes"]) == (300, 300, 1_200_000_000)
    assert refused["error"]["kind"] == "NotFound"


def test_a_reference_given_twice_is_realized_once(commands):
    done = commands.in_pipe("realize", "a/present", "a/present", is_stand_in=True)

    assert len(done.output.splitlines()) == 1


def test_invalid_references_are_all_reported_before_anything_is_done(commands):
    done = commands.in_pipe("realize", "a/b", "c", "d/e:latest", is_stand_in=True)

    assert done.code == 2
    assert done.output == ""
    assert len(done.errors.splitlines()) == 2


def test_the_mode_is_passed_on(commands):
    done = commands.in_pipe("realize", "--mode", "dev", "--json", "a/present", is_stand_in=True)

    assert json.loads(done.output)[0]["mode"] == "dev"


def test_ctrl_c_ends_it_at_once_with_the_code_of_an_interrupt(stand_in):
    done = stand_in("realize", "a/held", interrupt_at="100/200 paths")

    assert done.code == 130
    assert "interrupted" in done.text
    assert "Traceback" not in done.text


def test_a_missing_token_file_is_an_error_before_any_request(commands):
    done = commands.in_pipe(
        "realize", "a/b", "--set=floxhub.token_file=/nonexistent/token", is_stand_in=True
    )

    assert done.code == 1
    assert done.output == ""
    assert done.errors.startswith("error: ")
