"""The journal of changes: each can be undone, by this process or a later one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node.changes import DIRECTORY, Journal
from cri_proxy.node.root import Root
from tests.node.conftest import snapshot


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A node with a file of another program, private and old, and a link."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "var/lib").mkdir(parents=True)
    file = tmp_path / "etc/other.conf"
    file.write_text("a: 1\nendpoint: old\n")
    file.chmod(0o640)
    os.utime(file, ns=(1, 1_600_000_000_123_456_789))
    (tmp_path / "etc/link").symlink_to("other.conf")
    return Root(tmp_path)


CHANGES: dict[str, Callable[[Journal], object]] = {
    "a new file": lambda journal: journal.write("/etc/new.conf", b"new\n"),
    "a new file in new directories": lambda journal: journal.write("/opt/a/b/new", b"new\n"),
    "an existing file": lambda journal: journal.write("/etc/other.conf", b"ours\n"),
    "a file through a link": lambda journal: journal.write("/etc/link", b"ours\n"),
    "a new link": lambda journal: journal.link("/etc/new", "target"),
    "an existing link": lambda journal: journal.link("/etc/link", "target"),
    "a directory": lambda journal: journal.directory(
        "/opt/ours", lambda place: (place / "file").write_text("x") and None
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_undone_to_the_byte_mode_and_time(
    root: Root, change: Callable[[Journal], object]
) -> None:
    before = snapshot(root)

    change(Journal(root))
    changed = snapshot(root)
    foreign = Journal(root).undo()

    assert changed != before
    assert (snapshot(root), foreign) == (before, [])


def test_all_changes_together_are_undone_in_reverse_order(root: Root) -> None:
    before = snapshot(root)
    journal = Journal(root)
    for change in CHANGES.values():
        if change is not CHANGES["a file through a link"]:
            change(journal)
    journal.write("/etc/other.conf", b"ours, again\n")

    Journal(root).undo()

    assert snapshot(root) == before


def test_a_changed_file_keeps_its_mode_and_a_new_one_gets_ours(root: Root) -> None:
    journal = Journal(root)

    journal.write("/etc/other.conf", b"ours\n", mode=0o600)
    journal.write("/etc/new.conf", b"new\n", mode=0o600)

    assert root.at("/etc/other.conf").stat().st_mode & 0o777 == 0o640
    assert root.at("/etc/new.conf").stat().st_mode & 0o777 == 0o600


def test_only_the_steps_of_this_run_are_undone(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/new.conf", b"first\n")
    begun = journal.length
    journal.write("/etc/new.conf", b"second\n")

    journal.undo(begun)

    assert root.text("/etc/new.conf") == "first\n"
    assert not journal.is_empty


def test_only_edits_of_other_programs_files_are_undone_on_demand(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/other.conf", b"a: 1\nendpoint: new\n", words=("new", "old"))
    journal.write("/etc/ours.conf", b"ours\n")

    journal.undo(only_edits=True)

    assert root.text("/etc/other.conf") == "a: 1\nendpoint: old\n"
    assert root.text("/etc/ours.conf") == "ours\n"
    assert not journal.has_edits()


def test_edits_are_distinguished_from_our_own_files(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/other.conf", b"endpoint: new\n", words=("new", "old"))
    begun = journal.length
    journal.write("/etc/ours.conf", b"ours\n")

    assert journal.has_edits()
    assert not journal.has_edits(begun)


def test_a_file_that_was_changed_since_only_loses_our_words(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/other.conf", b"a: 1\nendpoint: new\n", words=("new", "old"))
    root.at("/etc/other.conf").write_text("a: 2\nendpoint: new\nb: 3\n")

    foreign = journal.undo()

    assert foreign == ["/etc/other.conf"]
    assert root.text("/etc/other.conf") == "a: 2\nendpoint: old\nb: 3\n"


def test_a_file_without_words_of_ours_is_left_as_others_changed_it(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/other.conf", b"ours\n")
    root.at("/etc/other.conf").write_text("theirs\n")

    assert journal.undo() == ["/etc/other.conf"]
    assert root.text("/etc/other.conf") == "theirs\n"


def test_a_file_that_was_restored_already_counts_as_ours(root: Root) -> None:
    original = root.text("/etc/other.conf")
    journal = Journal(root)
    journal.write("/etc/other.conf", b"ours\n")
    root.at("/etc/other.conf").write_text(original or "")

    assert journal.undo() == []
    assert root.text("/etc/other.conf") == original


def test_a_file_that_was_deleted_since_is_restored(root: Root) -> None:
    before = snapshot(root)
    journal = Journal(root)
    journal.write("/etc/other.conf", b"ours\n")
    root.at("/etc/other.conf").unlink()

    assert journal.undo() == []
    assert snapshot(root) == before


def test_a_directory_of_ours_stays_while_others_use_it(root: Root) -> None:
    journal = Journal(root)
    journal.write("/opt/new/ours", b"x")
    root.at("/opt/new/theirs").touch()

    journal.undo()

    assert root.names("/opt/new") == ["theirs"]


def test_what_an_interrupted_write_left_is_removed(root: Root) -> None:
    before = snapshot(root)
    Journal(root).write("/etc/new.conf", b"x")
    root.at("/etc/.new.conf.cri-proxy").write_text("half")

    Journal(root).undo()

    assert snapshot(root) == before


def test_a_directory_that_was_half_filled_is_removed(root: Root) -> None:
    before = snapshot(root)

    def fill(place: Path) -> None:
        (place / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Journal(root).directory("/opt/ours", fill)
    Journal(root).undo()

    assert snapshot(root) == before


def test_a_directory_in_the_place_of_a_file_is_refused(root: Root) -> None:
    with pytest.raises(errors.RequestInvalid, match="/etc is a directory"):
        Journal(root).write("/etc", b"x")


def test_settling_keeps_one_step_per_path_that_undoes_them_all(root: Root) -> None:
    before = snapshot(root)
    journal = Journal(root)
    journal.write("/etc/other.conf", b"first\n", words=("first", "old"))
    journal.write("/etc/new.conf", b"new\n")
    journal.write("/etc/other.conf", b"second\n", words=("second", "old"))

    journal.settle()

    assert journal.length == 2
    assert Journal(root).undo() == []
    assert snapshot(root) == before


def test_copies_of_originals_go_with_their_steps(root: Root) -> None:
    originals = f"{DIRECTORY}/originals"
    journal = Journal(root)
    journal.write("/etc/other.conf", b"first\n")
    journal.write("/etc/new.conf", b"new\n")
    journal.write("/etc/other.conf", b"second\n")
    before = root.names(originals)
    journal.write("/etc/new.conf", b"newer\n")
    journal.undo(3 + 1)

    journal.settle()

    assert before == ["0", "1"]
    assert root.names(originals) == ["0"]


def test_a_settled_step_knows_what_was_written_last(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/other.conf", b"first\n", words=("first", "old"))
    journal.write("/etc/other.conf", b"second\n", words=("second", "old"))
    journal.settle()
    root.at("/etc/other.conf").write_text("second, changed\n")

    Journal(root).undo()

    assert root.text("/etc/other.conf") == "old, changed\n"


def test_a_forgotten_directory_is_removed_for_good(root: Root) -> None:
    journal = Journal(root)
    for name in ("one", "two"):
        journal.directory(f"/opt/{name}", lambda place: (place / "file").touch())

    journal.forget("/opt/one")

    assert Journal(root).directories() == ["/opt/two"]
    assert root.names("/opt") == ["two"]


def test_what_was_remembered_is_known_to_the_next_run(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/new.conf", b"x")
    journal.remember(runtime="/run/r.sock", settings="digest")

    again = Journal(root)

    assert (again.runtime, again.settings, again.length) == ("/run/r.sock", "digest", 1)


@pytest.mark.parametrize("first", ["/etc/other.conf", "/etc/new.conf"])
def test_originals_and_journal_are_for_root_alone(root: Root, first: str) -> None:
    journal = Journal(root)
    journal.write(first, b"ours\n")
    journal.write("/etc/other.conf", b"ours\n")

    places = [root.at(DIRECTORY), root.at(f"{DIRECTORY}/originals")]
    assert [place.stat().st_mode & 0o777 for place in places] == [0o700, 0o700]


def test_nothing_is_left_once_all_is_undone(root: Root) -> None:
    journal = Journal(root)
    journal.write("/etc/new.conf", b"x")

    journal.undo()

    assert journal.is_empty
    assert not root.at(DIRECTORY).exists()


def test_a_journal_of_another_edition_is_refused(root: Root) -> None:
    Journal(root).write("/etc/new.conf", b"x")
    file = root.at(f"{DIRECTORY}/journal.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"edition": 99}))

    with pytest.raises(errors.RequestInvalid, match="another version"):
        Journal(root)
