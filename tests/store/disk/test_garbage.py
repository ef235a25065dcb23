"""Garbage: decided on values, removed from real disks, deleted to the last file."""

import os
import time

import pytest

from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.model import references
from cri_proxy.store.disk import garbage, leases
from cri_proxy.store.disk.garbage import Candidate, PlanRequest, Rules, StoreSize
from tests.store.disk.nodes import commit, never, realize, views_of

DAY = 86400.0
NOW = 1_000_000.0
SIZES = {"a": 100, "b": 10, "c": 1}


def present(identity, *paths, days=1.0, reference="acme/web:1", mode="run"):
    return Candidate(identity, reference, mode, NOW - days * DAY, frozenset(paths))


def going(found, rules, roots=None):
    decisions = garbage.decide(found, SIZES, roots or {}, rules, NOW)
    return {each.identity: each.freed_bytes for each in decisions if each.is_removed}


ALL = Rules(grace_seconds=0, wanted_bytes=None)


def test_least_recently_started_goes_first_and_no_more_than_needed():
    found = [present("new", "b", days=1), present("old", "a", days=3), present("mid", "c", days=2)]

    assert list(going(found, Rules(0, wanted_bytes=1))) == ["old"]
    assert list(going(found, Rules(0, wanted_bytes=101))) == ["old", "mid"]
    assert list(going(found, ALL)) == ["old", "mid", "new"]


def test_a_path_is_freed_with_the_last_environment_that_has_it():
    found = [present("one", "a", "b", days=3), present("two", "a", days=2)]

    assert going(found, ALL) == {"one": 10, "two": 100}
    assert going(found, ALL, {"two": ["pin"]}) == {"one": 10}


def test_environment_with_a_gc_root_stays_and_names_it():
    decisions = garbage.decide([present("one", "a")], SIZES, {"one": ["pod x"]}, ALL, NOW)

    assert [(each.is_removed, each.roots) for each in decisions] == [(False, ("pod x",))]


def test_age_removes_without_need_and_grace_period_keeps_regardless():
    found = [present("old", "a", days=31), present("new", "b", days=1)]

    assert list(going(found, Rules(0, age_seconds=30 * DAY))) == ["old"]
    assert going(found, Rules(40 * DAY, age_seconds=30 * DAY, wanted_bytes=None)) == {}


def test_an_open_reference_means_what_was_started_last_in_each_mode():
    found = [
        present("one", days=3, reference="acme/web:1"),
        present("two", days=1, reference="acme/web:2"),
        present("dev", days=2, reference="acme/web:1", mode="dev"),
        present("other", days=0, reference="acme/other:9"),
    ]

    assert garbage.matching(references.parse("acme/web"), found) == ["two", "dev"]
    assert garbage.matching(references.parse("acme/web:1"), found) == ["one", "dev"]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "node"


@pytest.fixture
def views(root, store):
    return views_of(root, store)


@pytest.fixture
def put(store, publisher):
    """Return a function that commits a path whose last use was a day ago."""
    publisher.compression = "none"

    def put_tree(name):
        path = publisher.add(name, {f"share/{name}": name.encode()})
        commit(store, publisher, path)
        forget(store, path)
        return path

    return put_tree


def forget(store, path, days=1):
    """Set the last use of a path to some days ago."""
    then = time.time() - days * DAY
    for record in (store.directory / ".narinfo").glob(f"{path.basename}.*"):
        os.utime(record, (then, then))


def run(root, job, argument, task):
    return garbage.jobs(root)[job](argument, task)


def test_paths_that_no_environment_has_go_and_the_others_stay(root, store, views, put, task):
    kept, loose = put("kept"), put("loose")
    realize(views, "web", kept)

    gone = run(root, garbage.PATHS, 0, task)

    assert gone.paths == 1
    assert store.paths() == (kept,)
    assert not store.locate(loose).exists()
    assert store.record(loose) is None


def test_a_recently_used_path_stays(root, store, put, task):
    path = put("path")
    assert store.record(path) is not None

    gone = run(root, garbage.PATHS, 3600, task)

    assert gone.paths == 0
    assert store.paths() == (path,)


def test_peeking_at_a_path_does_not_use_it(root, store, put, task):
    path = put("path")
    assert store.peek(path) is not None

    assert run(root, garbage.PATHS, 3600, task).paths == 1


def test_what_a_realization_under_way_has_used_stays_however_long_it_takes(root, store, put, task):
    running = leases.Realizations(root / "store")
    lease = running.begin()
    (file,) = (root / "store" / ".leases").iterdir()
    os.utime(file, (time.time() - 3 * DAY,) * 2)
    used, unused = put("used"), put("unused")
    forget(store, used, days=2)
    forget(store, unused, days=4)

    run(root, garbage.PATHS, 0, task)
    assert store.paths() == (used,)
    lease.release()
    run(root, garbage.PATHS, 0, task)
    assert store.paths() == ()


def test_a_use_between_check_and_eviction_is_noticed(store, put):
    """`evict` renames the record first, so a use before that has left a newer time."""
    path = put("path")
    horizon = time.time() - 10
    assert store.record(path) is not None

    assert not store.evict(path, unused_since=horizon)
    assert store.record(path) is not None


def test_a_held_path_is_not_evicted(store, put):
    path = put("path")

    with store.stage(path, never):
        assert not store.evict(path, unused_since=time.time())
    assert store.evict(path, unused_since=time.time())


def test_the_paths_of_a_view_that_is_being_made_stay(root, store, views, put, task):
    path = put("path")

    with views.stage("0-acme-web", never) as stage:
        stage.link([path])
        run(root, garbage.PATHS, 0, task)

    assert store.paths() == (path,)


def test_garbage_is_deleted_and_half_of_it_is_never_in_place(root, store, views, put, task):
    path = put("path")
    identity = realize(views, "web", path)

    assert views.move_to_garbage(identity)
    assert not views.has(identity)
    assert not views.move_to_garbage(identity)
    deleted = run(root, garbage.EMPTY, None, task)

    assert deleted >= 5
    assert list((root / "environments" / ".garbage").iterdir()) == []


def test_deletion_can_be_cancelled_and_resumes_later(root, views, task):
    aside = root / "environments" / ".garbage" / "0"
    aside.mkdir(parents=True)
    for number in range(1000):
        (aside / str(number)).touch()
    cancelled = Task(lambda report: None)
    cancelled.cancel()

    with pytest.raises(Cancelled):
        run(root, garbage.EMPTY, None, cancelled)
    assert aside.exists()
    run(root, garbage.EMPTY, None, task)
    assert not aside.exists()


def test_the_plan_lists_removals_with_sizes_and_changes_nothing(root, store, views, put, task):
    shared, own, loose = put("shared"), put("own"), put("loose")
    going_, staying = realize(views, "going", shared, own), realize(views, "staying", shared)

    plan = run(
        root,
        garbage.PLAN,
        PlanRequest({}, {"acme/staying": ["pin acme/staying"]}, ALL),
        task,
    )

    decisions = {each.identity: each for each in plan.decisions}
    assert decisions[staying].roots == ("pin acme/staying",)
    assert plan.removals == (decisions[going_],)
    assert decisions[going_].freed_bytes == store.peek(own).nar_size
    assert plan.unreferenced_bytes == store.peek(loose).nar_size
    assert plan.paths == 2
    sizes = [store.peek(path).nar_size for path in store.paths()]
    assert len(sizes) == 3
    assert run(root, garbage.MEASURE, None, task) == StoreSize(3, sum(sizes))


def test_an_environment_whose_record_cannot_be_read_keeps_its_paths(root, store, views, put, task):
    path = put("path")
    identity = realize(views, "web", path)
    (views.locate(identity) / "environment.json").write_text("{}")

    plan = run(root, garbage.PLAN, PlanRequest({}, {}, Rules(0)), task)
    run(root, garbage.PATHS, 0, task)

    assert plan.decisions == ()
    assert store.paths() == (path,)
