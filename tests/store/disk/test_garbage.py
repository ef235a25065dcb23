"""What can go: decided on values, taken away from real disks, deleted to the last file."""

import json
import os
import time

import pytest

from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.model import environments, references, storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.store import nar
from cri_proxy.store.disk import garbage, leases
from cri_proxy.store.disk.garbage import PlanRequest, Present, Rules
from cri_proxy.store.disk.views import Views

DAY = 86400.0
NOW = 1_000_000.0
SIZES = {"a": 100, "b": 10, "c": 1}


def present(identity, *paths, days=1.0, reference="acme/web:1", mode="run"):
    return Present(identity, reference, mode, NOW - days * DAY, frozenset(paths))


def going(found, rules, holders=None):
    fates = garbage.decide(found, SIZES, holders or {}, rules, NOW)
    return {each.identity: each.frees for each in fates if each.goes}


ALL = Rules(grace_seconds=0, wanted_bytes=None)


def test_least_recently_started_goes_first_and_no_more_than_is_wanted():
    found = [present("new", "b", days=1), present("old", "a", days=3), present("mid", "c", days=2)]

    assert list(going(found, Rules(0, wanted_bytes=1))) == ["old"]
    assert list(going(found, Rules(0, wanted_bytes=101))) == ["old", "mid"]
    assert list(going(found, ALL)) == ["old", "mid", "new"]


def test_a_path_is_freed_with_the_last_environment_that_has_it():
    found = [present("one", "a", "b", days=3), present("two", "a", days=2)]

    assert going(found, ALL) == {"one": 10, "two": 100}
    assert going(found, ALL, {"two": ["pin"]}) == {"one": 10}


def test_what_is_held_stays_however_much_is_wanted_and_says_by_whom():
    fates = garbage.decide([present("one", "a")], SIZES, {"one": ["pod x"]}, ALL, NOW)

    assert [(each.goes, each.holders) for each in fates] == [(False, ("pod x",))]


def test_age_lets_go_without_need_and_grace_keeps_in_spite_of_it():
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


def never():
    """Nobody gives up."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "node"


@pytest.fixture
def views(root, store):
    views = Views(root / "environments", store)
    views.recover()
    return views


@pytest.fixture
def put(store, publisher):
    """Puts a path into the store that nobody has used for a day."""
    publisher.compression = "none"

    def put_tree(name):
        path = publisher.add(name, {f"share/{name}": name.encode()})
        info = publisher.narinfo(path)
        with store.stage(path, never) as stage:
            with stage.filling(0) as place, publisher.archive_file(path).open("rb") as archive:
                nar.unpack(
                    archive, place, nar_size=info.nar_size, nar_hash=info.nar_hash, label=name
                )
            stage.commit(info)
        forget(store, path)
        return path

    return put_tree


def forget(store, path, days=1):
    """Let the last use of a path be some days ago."""
    then = time.time() - days * DAY
    for record in (store.directory / ".narinfo").glob(f"{path.basename}.*"):
        os.utime(record, (then, then))


def make(views, name, *paths):
    """Make an environment of paths."""
    flox_env = storepaths.of_basename("7ik8057hajl6vq9j40h3jracxjn0bb5x-environment-run")
    identity = f"0-acme-{name}"
    with views.stage(identity, never) as stage:
        stage.link(paths)
        (stage.store / flox_env.basename).mkdir()
        environment = Environment(
            identity=identity,
            reference=references.parse(f"acme/{name}:1"),
            revision="0" * 40,
            lock_digest="1" * 64,
            system="x86_64-linux",
            mode=Mode.RUN,
            flox_env=flox_env,
            shell=None,
            variables=(),
            closure=tuple(sorted({*paths, flox_env})),
            nar_bytes=1,
            realized_at=time.time(),
            store=views.locate(identity) / "store",
        )
        (stage.directory / "environment.json").write_text(
            json.dumps(environments.to_json(environment))
        )
        stage.commit()
    return identity


def run(root, job, argument, task):
    return garbage.jobs(root)[job](argument, task)


def test_paths_that_no_environment_has_go_and_the_others_stay(root, store, views, put, task):
    kept, loose = put("kept"), put("loose")
    make(views, "web", kept)

    gone = run(root, garbage.PATHS, 0, task)

    assert gone.paths == 1
    assert store.paths() == (kept,)
    assert not store.locate(loose).exists()
    assert store.record(loose) is None


def test_a_path_that_was_used_lately_stays(root, store, put, task):
    path = put("path")
    assert store.record(path) is not None

    gone = run(root, garbage.PATHS, 3600, task)

    assert gone.paths == 0
    assert store.paths() == (path,)


def test_looking_at_a_path_does_not_use_it(root, store, put, task):
    path = put("path")
    assert store.look(path) is not None

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


def test_a_use_between_the_look_and_the_taking_away_is_noticed(store, put):
    """`drop` renames the record first, so whoever used it before that has left a newer time."""
    path = put("path")
    horizon = time.time() - 10
    assert store.record(path) is not None

    assert not store.drop(path, unused_since=horizon)
    assert store.record(path) is not None


def test_a_path_that_somebody_is_at_work_on_is_left_alone(store, put):
    path = put("path")

    with store.stage(path, never):
        assert not store.drop(path, unused_since=time.time())
    assert store.drop(path, unused_since=time.time())


def test_the_paths_of_a_view_that_is_being_made_stay(root, store, views, put, task):
    path = put("path")

    with views.stage("0-acme-web", never) as stage:
        stage.link([path])
        run(root, garbage.PATHS, 0, task)

    assert store.paths() == (path,)


def test_what_was_taken_away_is_deleted_and_what_runs_in_it_is_not_half_there(
    root, store, views, put, task
):
    path = put("path")
    identity = make(views, "web", path)

    assert views.set_aside(identity)
    assert not views.has(identity)
    assert not views.set_aside(identity)
    deleted = run(root, garbage.EMPTY, None, task)

    assert deleted >= 5
    assert list((root / "environments" / ".garbage").iterdir()) == []


def test_deleting_ends_when_nobody_wants_it_and_goes_on_later(root, views, task):
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


def test_the_plan_tells_who_goes_what_it_frees_and_changes_nothing(root, store, views, put, task):
    shared, own, loose = put("shared"), put("own"), put("loose")
    going_, staying = make(views, "going", shared, own), make(views, "staying", shared)

    plan = run(
        root,
        garbage.PLAN,
        PlanRequest({}, {"acme/staying": ["pin acme/staying"]}, ALL),
        task,
    )

    fates = {each.identity: each for each in plan.fates}
    assert fates[staying].holders == ("pin acme/staying",)
    assert plan.going == (fates[going_],)
    assert fates[going_].frees == store.look(own).nar_size
    assert plan.loose_bytes == store.look(loose).nar_size
    assert plan.paths == 2
    assert plan.store == run(root, garbage.MEASURE, None, task)
    assert len(store.paths()) == 3


def test_an_environment_whose_record_cannot_be_read_keeps_its_paths(root, store, views, put, task):
    path = put("path")
    identity = make(views, "web", path)
    (views.locate(identity) / "environment.json").write_text("{}")

    plan = run(root, garbage.PLAN, PlanRequest({}, {}, Rules(0)), task)
    run(root, garbage.PATHS, 0, task)

    assert plan.fates == ()
    assert store.paths() == (path,)
