"""What a node remembers of FloxHub, beyond what `test_hub` shows of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.floxhub.metadata import Metadata
from cri_proxy.floxhub.records import ACCEPTED_SECONDS, PUBLIC, Records, stale_locks
from cri_proxy.model import storepaths
from cri_proxy.model.references import Reference

WEB = Reference("alice", "web")
COMMIT = "c" * 40


def test_a_caller_is_named_by_token_and_environment_without_showing_either(tmp_path: Path) -> None:
    records = Records(tmp_path)
    names = {
        records.caller_of(WEB, "secret"),
        records.caller_of(WEB, "another"),
        records.caller_of(Reference("alice", "db"), "secret"),
        records.caller_of(WEB, None),
    }

    assert len(names) == 4
    assert records.caller_of(WEB, None) == PUBLIC
    assert records.caller_of(WEB.at(3), "secret") == records.caller_of(WEB, "secret")
    assert hashlib.sha256(b"secret").hexdigest() not in names


def test_a_node_keeps_its_key_and_no_two_nodes_have_the_same(tmp_path: Path) -> None:
    first, again = Records(tmp_path / "a"), Records(tmp_path / "a")
    other = Records(tmp_path / "b")

    assert first.caller_of(WEB, "secret") == again.caller_of(WEB, "secret")
    assert first.caller_of(WEB, "secret") != other.caller_of(WEB, "secret")


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_replaced(tmp_path: Path, damage: bytes) -> None:
    before = Records(tmp_path).caller_of(WEB, "secret")
    (tmp_path / "key").write_bytes(damage)

    assert Records(tmp_path).caller_of(WEB, "secret") != before
    assert len((tmp_path / "key").read_bytes()) == 32
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cri_proxy.floxhub.records import Records; "
        "from cri_proxy.model.references import Reference; "
        "print(Records(Path(sys.argv[1])).caller_of(Reference('a', 'b'), 'secret'))"
    )

    def start(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(start, range(4)))

    assert len(names) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("revision", ["../../x", "", "c" * 39, "C" * 40])
def test_a_head_that_is_no_commit_counts_as_absent(tmp_path: Path, revision: str) -> None:
    records = Records(tmp_path)
    records.keep_head(WEB, PUBLIC, COMMIT)
    assert records.head(WEB, PUBLIC) == COMMIT

    records.keep_head(WEB, PUBLIC, revision)

    assert records.head(WEB, PUBLIC) is None


def test_forgetting_what_was_never_known_is_nothing(tmp_path: Path) -> None:
    Records(tmp_path).forget_head(WEB, PUBLIC)


def test_lockfiles_of_equal_content_are_kept_once(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.keep_lock(COMMIT, 1, b"same")
    records.keep_lock(COMMIT, 2, b"same")

    first, second = records.lock(COMMIT, 1), records.lock(COMMIT, 2)

    assert first == second
    assert first is not None
    assert first.file.read_bytes() == b"same"


def test_records_are_dropped_with_the_directories_that_held_them(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.keep_metadata(COMMIT, Metadata(1, (1,)))
    records.keep_lock(COMMIT, 1, b"lock")
    (tmp_path / "locks" / ".left-by-a-crash").write_bytes(b"")
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))

    assert records.drop_older_than(1000) == 4

    assert not (tmp_path / "revisions" / COMMIT).exists()
    records.keep_lock(COMMIT, 1, b"lock")
    assert records.lock(COMMIT, 1) is not None


def test_dropping_and_keeping_at_once_is_no_trouble(tmp_path: Path) -> None:
    records = Records(tmp_path)

    old = (1, 1)

    def keep(generation: int) -> None:
        for _ in range(100):
            records.keep_lock(COMMIT, generation, b"lock %d" % generation)
            with contextlib.suppress(FileNotFoundError):
                os.utime(tmp_path / "revisions" / COMMIT / str(generation), old)

    with ThreadPoolExecutor(4) as pool:
        keeping = [pool.submit(keep, generation) for generation in range(3)]
        dropping = pool.submit(lambda: [records.drop_older_than(1000) for _ in range(200)])
        for each in (*keeping, dropping):
            each.result(60)

    records.keep_lock(COMMIT, 1, b"lock 1")
    assert records.lock(COMMIT, 1) is not None


def test_a_place_that_is_not_ours_is_told_with_advice_of_its_own() -> None:
    """No user can make a directory there, not even root."""
    with pytest.raises(errors.NodeExhausted, match="run cri-proxy as root"):
        Records(Path("/sys/kernel/cri-proxy"))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    records = Records(tmp_path)
    (tmp_path / "locks").write_bytes(b"a file in the way")

    with pytest.raises(errors.NodeExhausted, match=r"locks/.* cannot be written"):
        records.keep_lock(COMMIT, 1, b"lock")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.NodeExhausted, match="cannot be written"):
        Records(tmp_path / "file")


def test_what_was_given_from_memory_is_stale_until_floxhub_confirms_it(tmp_path: Path) -> None:
    records = Records(tmp_path)
    mine, theirs = records.caller_of(WEB, "secret"), records.caller_of(WEB, "another")
    for caller in (mine, theirs):
        records.keep_head(WEB, caller, COMMIT)
    assert stale_locks(tmp_path) == frozenset()

    records.mark_stale(WEB, mine, "d" * 64)
    records.mark_stale(WEB, mine, "e" * 64)
    records.mark_stale(WEB, mine, "d" * 64)

    assert stale_locks(tmp_path) == {("alice", "web", "d" * 64), ("alice", "web", "e" * 64)}
    assert records.head(WEB, mine) == COMMIT
    records.keep_head(WEB, theirs, COMMIT)
    assert len(stale_locks(tmp_path)) == 2
    records.keep_head(WEB, mine, COMMIT)
    assert stale_locks(tmp_path) == frozenset()


def test_listing_what_is_stale_makes_nothing_and_bears_damage(tmp_path: Path) -> None:
    assert stale_locks(tmp_path / "absent") == frozenset()
    assert not (tmp_path / "absent").exists()
    place = tmp_path / "heads" / "alice" / "web"
    place.mkdir(parents=True)
    head = f'"revision": "{COMMIT}", "seen_at": 1'
    damaged = ("", "[]", f'{{{head}, "stale": 1}}', f'{{{head}, "stale": [1]}}')
    for number, text in enumerate((*damaged, f"{{{head}}}")):
        (place / str(number)).write_text(text)

    assert stale_locks(tmp_path) == frozenset()
    for number in range(len(damaged)):
        Records(tmp_path).mark_stale(WEB, str(number), "d" * 64)
    assert stale_locks(tmp_path) == frozenset()
    Records(tmp_path).mark_stale(WEB, str(len(damaged)), "d" * 64)
    assert stale_locks(tmp_path) == {("alice", "web", "d" * 64)}


def test_published_packages_are_given_to_one_caller_and_one_set_of_paths(tmp_path: Path) -> None:
    records = Records(tmp_path)
    app, lib = (storepaths.of_basename(f"{digit * 32}-x") for digit in "01")
    records.note_given([app, lib], "secret", is_given=True)

    assert records.was_given([lib, app], "secret")
    assert not records.was_given([lib, app], "another")
    assert not records.was_given([lib, app], None)
    assert not records.was_given([app], "secret")
    records.note_given([app, lib], "secret", is_given=False)
    assert not records.was_given([app, lib], "secret")


def test_a_token_is_remembered_as_given_packages_no_longer_than_tokens_live(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path)
    app = storepaths.of_basename(f"{'0' * 32}-app")
    for token in ("secret", None):
        records.note_given([app], token, is_given=True)
    long_ago = int(time.time()) - ACCEPTED_SECONDS - 60
    for file in (tmp_path / "published").iterdir():
        file.write_text(json.dumps({"seen_at": long_ago}))

    assert not records.was_given([app], "secret")
    assert records.was_given([app], None)
