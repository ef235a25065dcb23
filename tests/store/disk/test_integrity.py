"""Damage of every kind is found, quarantined, and repaired once intact files are available."""

import os

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.store.disk import integrity
from cri_proxy.store.disk.integrity import HashRequest, ViewFindings
from tests.store.disk import nodes
from tests.store.disk.nodes import commit, never, realize, views_of


@pytest.fixture
def root(tmp_path):
    return tmp_path / "node"


@pytest.fixture(autouse=True)
def views(root, store):
    return views_of(root, store)


@pytest.fixture
def put(store, publisher):
    """Return a function that commits a published path, again if it is damaged."""
    publisher.compression = "none"
    published = {}

    def put_tree(name):
        if name not in published:
            published[name] = publisher.add(
                name, {"share/one": name.encode(), "share/two": b"two", "bin/": b""}
            )
        return commit(store, publisher, published[name])

    return put_tree


def paths(root, task, after="", seconds=None, bytes_per_second=None):
    argument = HashRequest(after, seconds, bytes_per_second)
    return integrity.jobs(root)[integrity.PATHS](argument, task)


def compared(root, task):
    return integrity.jobs(root)[integrity.VIEWS](None, task)


def repair(root, task):
    return integrity.jobs(root)[integrity.REPAIR](None, task)


def overwrite(file, data=b"damaged"):
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)


def test_a_whole_store_has_no_findings(root, store, views, put, task):
    realize(views, "web", put("a"), put("b"))

    found = paths(root, task)

    assert (found.checked, found.damaged, found.next) == (2, [], None)
    assert found.bytes == sum(store.peek(path).nar_size for path in store.paths())
    assert compared(root, task) == ViewFindings(environments=1, damaged=[])


def test_what_is_damaged_counts_as_absent_and_stays_in_place(root, store, views, put, task):
    path = put("a")
    identity = realize(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")

    (finding,) = paths(root, task).damaged

    assert (finding.path, finding.environments) == (path.basename, [identity])
    assert store.record(path) is None
    assert store.has(path)
    assert store.locate(path).is_dir()
    assert views.damaged(identity) == (path,)
    assert paths(root, task).damaged == [finding]  # reported until it is repaired


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "share" / "two").unlink(),
        lambda place: (place / "share" / "three").touch(),
        lambda place: (place / "share" / "one").chmod(0o555),
        lambda place: os.mkfifo(place / "share" / "pipe"),
    ],
    ids=["lost", "added", "executable", "pipe"],
)
def test_every_difference_that_an_archive_shows_is_found(root, store, put, task, damage):
    path = put("a")
    (store.locate(path) / "share").chmod(0o755)
    damage(store.locate(path))

    assert [each.path for each in paths(root, task).damaged] == [path.basename]


def test_a_record_that_cannot_be_read_is_damage(root, store, put, task):
    path = put("a")
    (record,) = (store.directory / ".narinfo").glob(f"{path.basename}.*")
    record.write_text("nonsense")

    assert [each.path for each in paths(root, task).damaged] == [path.basename]


def test_hashing_resumes_after_the_path_where_it_stopped(root, store, put, task):
    for name in ("a", "b", "c"):
        put(name)
    first, second, third = (path.basename for path in store.paths())

    none = paths(root, task, seconds=0)
    rest = paths(root, task, after=first)

    assert (none.checked, none.next) == (0, "")
    assert (rest.checked, rest.next) == (2, None)
    assert first < second < third


def test_a_slow_audit_can_be_cancelled(root, put):
    put("a")
    task = Task(lambda report: None)
    task.cancel()

    with pytest.raises(Cancelled):
        paths(root, task, bytes_per_second=1)


def test_path_that_is_fetched_again_is_linked_again_and_shares_its_files(
    root, store, views, put, task
):
    path = put("a")
    identity = realize(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")
    paths(root, task)
    view = os.open(views.locate(identity) / "store", os.O_RDONLY)  # as a container has it mounted

    put("a")
    assert store.record(path) is not None
    assert repair(root, task) == [identity]

    file = os.open(f"{path.basename}/share/one", os.O_RDONLY, dir_fd=view)
    assert os.read(file, 100) == b"a"
    assert os.path.samestat(os.fstat(file), (store.locate(path) / "share" / "one").stat())
    assert views.has(identity)
    assert views.damaged(identity) == ()
    assert paths(root, task).damaged == compared(root, task).damaged == []
    os.close(file)
    os.close(view)


def test_nothing_is_repaired_while_the_path_is_damaged(root, store, views, put, task):
    path = put("a")
    identity = realize(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")
    paths(root, task)

    assert repair(root, task) == []
    with pytest.raises(errors.ContentDamaged, match="store verify --repair"):
        views.repair(identity, never)
    assert views.damaged(identity) == (path,)


def test_a_view_without_a_file_is_found_and_repaired(root, store, views, put, task):
    path = put("a")
    identity = realize(views, "web", path)
    share = views.locate(identity) / "store" / path.basename / "share"
    share.chmod(0o755)
    (share / "two").unlink()

    (finding,) = compared(root, task).damaged

    assert (finding.path, finding.environments) == (path.basename, [identity])
    assert store.record(path) is not None
    assert repair(root, task) == [identity]
    assert compared(root, task).damaged == []


def test_a_path_that_is_missing_from_the_store_is_found_by_its_environment(
    root, store, views, put, task
):
    path = put("a")
    identity = realize(views, "web", path)
    nodes.remove(store, [path])

    assert paths(root, task).damaged == []
    (finding,) = compared(root, task).damaged

    assert finding.environments == [identity]
    put("a")
    assert repair(root, task) == [identity]


def test_a_damaged_path_is_dropped_with_its_mark(store, put, root, task):
    path = put("a")
    store.quarantine(path)

    nodes.remove(store, [path])
    store.recover()

    assert list((store.directory / ".narinfo").iterdir()) == []


def test_a_mark_without_its_path_is_dropped_by_recovery(store, put):
    path = put("a")
    nodes.remove(store, [path])
    store.quarantine(path)

    store.recover()

    assert not store.is_damaged(path)


def test_path_found_damaged_meanwhile_is_not_linked_into_a_new_view(store, views, put):
    path = put("a")
    store.quarantine(path)

    with (
        pytest.raises(errors.ContentDamaged, match="fetched again"),
        views.stage("0-acme-web", never) as stage,
    ):
        stage.link([path])
    assert not views.has("0-acme-web")
