import contextlib
import os
import stat
import subprocess
import sys
import threading

import pytest

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.lib.job import Task
from cri_proxy.model import storepaths
from cri_proxy.store import nar
from cri_proxy.store.disk import local
from cri_proxy.telemetry import logs
from hack.testbed.binary_cache import write_tree
from tests.store.disk import nodes
from tests.store.disk.nodes import GivenUp, commit, give_up, names_in, never


def put(store, publisher, name, tree=None, references=()):
    """Publish a path and commit it to the store."""
    path = publisher.add(name, tree or {"bin/x": b"contents of " + name.encode()}, references)
    return commit(store, publisher, path)


def publisher_tree(publisher, path):
    """Open the uncompressed archive of a published path."""
    return publisher.archive_file(path).open("rb")


@pytest.fixture
def publisher(publisher):
    publisher.compression = "none"
    return publisher


def files_of(store):
    """Return the names in each of the store's own directories."""
    return {name: names_in(store.directory / name) for name in (".narinfo", ".stage")}


def as_if_after_a_crash_of_the_machine(store, path):
    """Rename the path's record as if it had been committed in an earlier boot."""
    for record in (store.directory / ".narinfo").iterdir():
        if record.name.startswith(path.basename):
            record.rename(record.with_name(f"{path.basename}.0badb007"))


def test_committed_path_is_present_read_only_with_its_record(store, publisher):
    path = put(store, publisher, "thing")

    assert store.has(path)
    assert store.record(path) == publisher.narinfo(path)
    assert store.paths() == (path,)
    place = store.locate(path)
    assert (place / "bin/x").read_bytes() == b"contents of thing"
    for each in (place, place / "bin", place / "bin/x"):
        assert not stat.S_IMODE(each.stat().st_mode) & 0o222
        assert each.stat().st_mtime == 1


@pytest.mark.parametrize("tree", [b"one file", {"deep/er": b"x"}], ids=["file", "directory"])
def test_path_may_be_a_file_or_a_directory(store, publisher, tree):
    path = put(store, publisher, "it", tree)

    assert store.has(path)
    assert nodes.remove(store, [path]) == [path]
    assert not os.path.lexists(store.locate(path))


def test_absent_path_has_no_record(store, publisher):
    path = publisher.add("thing", b"x")

    assert not store.has(path)
    assert store.record(path) is None
    assert store.paths() == ()


def test_stage_that_was_not_committed_leaves_nothing(store, publisher):
    path = publisher.add("thing", b"x")
    with store.stage(path, never) as stage, stage.tree(0) as place:
        write_tree(place, {"half/of": b"it"})
        (place / "half").chmod(0o555)

    assert not store.has(path)
    assert files_of(store) == {".narinfo": [], ".stage": []}


def test_stage_is_cleared_between_two_attempts(store, publisher):
    path = publisher.add("thing", b"x")
    with store.stage(path, never) as stage:
        with contextlib.suppress(GivenUp), stage.tree(0) as place:
            write_tree(place, {"half/of": b"it"})
            raise GivenUp
        with stage.tree(0) as place:
            assert not place.exists()


def test_held_path_is_waited_for_until_check_raises(store, publisher):
    path = publisher.add("thing", b"x")
    with store.stage(path, never), pytest.raises(GivenUp), store.stage(path, give_up):
        pass


def test_path_is_present_after_waiting_for_its_holder(store, publisher):
    path, seen = publisher.add("thing", {"bin/x": b"contents of thing"}), []
    is_waiting = threading.Event()

    def wait_for_it():
        with store.stage(path, is_waiting.set):
            seen.append(store.has(path))

    with store.stage(path, never) as stage:
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        assert is_waiting.wait(60)
        with stage.tree(0) as place:
            write_tree(place, {"bin/x": b"contents of thing"})
        stage.commit(publisher.narinfo(path))
    waiter.join(60)

    assert seen == [True]


def test_record_lasts_only_after_a_checkpoint(store, publisher):
    path = put(store, publisher, "thing")
    boot = durable.boot_id()[:8]
    before = files_of(store)[".narinfo"]
    store.checkpoint()
    store.checkpoint()

    assert before == [f"{path.basename}.{boot}"]
    assert files_of(store)[".narinfo"] == [f"{path.basename}.narinfo"]
    assert store.has(path)
    assert store.record(path) == publisher.narinfo(path)


def test_synced_path_survives_a_reboot(store, publisher):
    synced = put(store, publisher, "synced")
    store.checkpoint()
    fresh = put(store, publisher, "fresh")
    as_if_after_a_crash_of_the_machine(store, fresh)

    assert not store.has(fresh)
    local.Store(store.directory).recover()

    assert store.paths() == (synced,)
    assert not os.path.lexists(store.locate(fresh))
    assert files_of(store) == {".narinfo": [f"{synced.basename}.narinfo"], ".stage": []}


def test_path_of_an_earlier_boot_is_replaced_even_before_recovery(store, publisher):
    path = put(store, publisher, "thing")
    as_if_after_a_crash_of_the_machine(store, path)
    (store.locate(path) / "bin").chmod(0o755)
    (store.locate(path) / "bin/x").unlink()
    again = put(store, publisher, "thing")

    assert again == path
    assert (store.locate(path) / "bin/x").exists()
    store.recover()
    assert store.paths() == (path,)


def test_recovery_drops_paths_without_records_and_the_reverse(store, publisher):
    whole, no_record, no_path = (put(store, publisher, name) for name in ("a", "b", "c"))
    store.checkpoint()
    (store.directory / ".narinfo" / f"{no_record.basename}.narinfo").unlink()
    store.locate(no_path).chmod(0o755)
    store.locate(no_path).rename(store.directory / "aside")
    store.recover()

    assert store.paths() == (whole,)
    assert not os.path.lexists(store.locate(no_record))
    assert files_of(store) == {".narinfo": [f"{whole.basename}.narinfo"], ".stage": []}


def test_recovery_touches_nothing_that_is_not_a_store_path(store):
    (store.directory / "lost+found").mkdir()
    (store.directory / "notes.txt").write_text("mine")
    store.recover()

    assert {"lost+found", "notes.txt"} <= set(names_in(store.directory))


def test_recovery_drops_free_stages_and_leaves_those_in_use(store, publisher):
    used, left = publisher.add("used", b"1"), publisher.add("left", b"2")
    for suffix in ("tree", "gone"):
        (store.directory / ".stage" / f"{left.basename}.{suffix}").touch()
    with store.stage(used, never) as stage, stage.tree(0) as place:
        write_tree(place, {"half": b"way"})
        local.Store(store.directory).recover()

        assert files_of(store)[".stage"] == [f"{used.basename}.tree"]


def test_damaged_record_makes_a_path_absent_until_it_is_fetched_again(store, publisher, caplog):
    path = put(store, publisher, "thing")
    store.checkpoint()
    (store.directory / ".narinfo" / f"{path.basename}.narinfo").write_bytes(b"\0" * 100)

    assert store.record(path) is None
    assert any("damaged" in logs.Text().format(each) for each in caplog.records)
    put(store, publisher, "thing")
    assert store.record(path) == publisher.narinfo(path)


def test_removal_skips_held_paths(store, publisher):
    free, used = put(store, publisher, "free"), put(store, publisher, "used")
    with store.stage(used, never):
        gone = nodes.remove(store, [free, used])

    assert gone == [free]
    assert store.paths() == (used,)
    assert files_of(store)[".stage"] == []


def test_no_record_is_left_if_a_checkpoint_renames_it_meanwhile(store, publisher, monkeypatch):
    path = put(store, publisher, "thing")
    unlink = local._unlink

    def unlink_before_a_checkpoint(file):
        unlink(file)
        store.checkpoint()  # by another process

    monkeypatch.setattr(local, "_unlink", unlink_before_a_checkpoint)
    nodes.remove(store, [path])

    assert files_of(store) == {".narinfo": [], ".stage": []}


def test_lack_of_space_is_reported_before_anything_is_written(store, publisher):
    path = publisher.add("thing", b"x")
    needed = 10**18
    with (
        pytest.raises(errors.NodeExhausted, match=f"no room for {path}: {needed} bytes are needed"),
        store.stage(path, never) as stage,
        stage.tree(needed),
    ):
        pytest.fail("there cannot be so much room")


def test_two_processes_never_hold_one_path_at_once(store, publisher):
    path = publisher.add("thing", b"x")
    program = (
        "import sys, pathlib; from cri_proxy.model import storepaths;"
        "from cri_proxy.store.disk import local;"
        "store = local.Store(pathlib.Path(sys.argv[1]));"
        "stage = store.stage(storepaths.parse(sys.argv[2]), lambda: None);"
        "stage.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(store.directory), str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(GivenUp), store.stage(path, give_up):
            pass
        other.kill()
    with store.stage(path, never):
        pass


def test_ordinary_user_can_keep_a_store(tmp_path):
    """Only root may rename or empty a read-only directory without a chmod."""
    nodes.call_as_ordinary_user(tmp_path, "test_local", "keep_a_store")


def keep_a_store(home):
    """The life of a path, in the process of `test_ordinary_user_can_keep_a_store`."""
    from hack.testbed.binary_cache import Publisher

    os.environ["TMPDIR"] = str(home)
    publisher = Publisher(home / "cache", compression="none")
    store = local.Store(home / "store")
    store.recover()
    path = put(store, publisher, "thing")
    mode = stat.S_IMODE(store.locate(path).stat().st_mode)
    assert mode == 0o555, oct(mode)
    assert store.locate(path).stat().st_mtime == 1
    as_if_after_a_crash_of_the_machine(store, path)
    store.recover()
    assert store.paths() == ()
    path = put(store, publisher, "thing")
    assert nodes.remove(store, [path]) == [path]
    assert files_of(store) == {".narinfo": [], ".stage": []}


def test_names_that_end_like_stage_entries_are_kept_apart(store, publisher):
    """A package may well be called something.lock or something.narinfo."""
    digest = "0" * 32
    paths = [storepaths.StorePath(digest, name) for name in ("x", "x.lock", "x.tree", "x.narinfo")]
    for path in paths:
        info = publisher.publish(path, {"name": path.name.encode()})
        with store.stage(path, Task(lambda report: None).check) as stage:
            with stage.tree(0) as place, publisher_tree(publisher, path) as source:
                nar.unpack(source, place, nar_size=info.nar_size, nar_hash=info.nar_hash, label="x")
            stage.commit(info)
    store.checkpoint()
    store.recover()

    assert store.paths() == tuple(sorted(paths))
