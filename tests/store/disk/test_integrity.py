"""Damage of every kind, found and kept from whoever starts; mended when whole files are there."""

import os

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.store import nar
from cri_proxy.store.disk import integrity
from cri_proxy.store.disk.integrity import HashRequest, ViewFindings
from cri_proxy.store.disk.views import Views
from tests.store.disk.test_garbage import make


def never():
    """Nobody gives up."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "node"


@pytest.fixture(autouse=True)
def views(root, store):
    views = Views(root / "environments", store)
    views.recover()
    return views


@pytest.fixture
def put(store, publisher):
    """Puts a path into the store as it was published, once more where it is damaged."""
    publisher.compression = "none"
    published = {}

    def put_tree(name):
        if name not in published:
            published[name] = publisher.add(
                name, {"share/one": name.encode(), "share/two": b"two", "bin/": b""}
            )
        path = published[name]
        info = publisher.narinfo(path)
        with store.stage(path, never) as stage:
            with stage.filling(0) as place, publisher.archive_file(path).open("rb") as archive:
                nar.unpack(
                    archive, place, nar_size=info.nar_size, nar_hash=info.nar_hash, label=name
                )
            stage.commit(info)
        return path

    return put_tree


def paths(root, task, after="", seconds=None, bytes_per_second=None):
    argument = HashRequest(after, seconds, bytes_per_second)
    return integrity.jobs(root)[integrity.PATHS](argument, task)


def views_of(root, task):
    return integrity.jobs(root)[integrity.VIEWS](None, task)


def mend(root, task):
    return integrity.jobs(root)[integrity.MEND](None, task)


def overwrite(file, data=b"damaged"):
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)


def test_a_whole_store_has_no_findings(root, store, views, put, task):
    make(views, "web", put("a"), put("b"))

    found = paths(root, task)

    assert (found.checked, found.damaged, found.next) == (2, [], None)
    assert found.bytes == sum(store.look(path).nar_size for path in store.paths())
    assert views_of(root, task) == ViewFindings(environments=1, damaged=[])


def test_what_is_damaged_counts_as_absent_and_stays_in_place(root, store, views, put, task):
    path = put("a")
    identity = make(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")

    (finding,) = paths(root, task).damaged

    assert (finding.path, finding.environments) == (path.basename, [identity])
    assert store.record(path) is None
    assert store.has(path)
    assert store.locate(path).is_dir()
    assert views.damaged(identity) == (path,)
    assert paths(root, task).damaged == [finding]  # told until it is mended


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


def test_it_goes_on_behind_the_path_where_it_stopped(root, store, put, task):
    for name in ("a", "b", "c"):
        put(name)
    first, second, third = (path.basename for path in store.paths())

    none = paths(root, task, seconds=0)
    rest = paths(root, task, after=first)

    assert (none.checked, none.next) == (0, "")
    assert (rest.checked, rest.next) == (2, None)
    assert first < second < third


def test_nobody_waits_for_a_slow_audit_to_end(root, put):
    put("a")
    task = Task(lambda report: None)
    task.cancel()

    with pytest.raises(Cancelled):
        paths(root, task, bytes_per_second=1)


def test_what_is_fetched_anew_is_linked_anew_and_shares_its_files_again(
    root, store, views, put, task
):
    path = put("a")
    identity = make(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")
    paths(root, task)
    view = os.open(views.locate(identity) / "store", os.O_RDONLY)  # as a container has it mounted

    put("a")
    assert store.record(path) is not None
    assert mend(root, task) == [identity]

    file = os.open(f"{path.basename}/share/one", os.O_RDONLY, dir_fd=view)
    assert os.read(file, 100) == b"a"
    assert os.path.samestat(os.fstat(file), (store.locate(path) / "share" / "one").stat())
    assert views.has(identity)
    assert views.damaged(identity) == ()
    assert paths(root, task).damaged == views_of(root, task).damaged == []
    os.close(file)
    os.close(view)


def test_nothing_is_mended_while_the_path_is_damaged(root, store, views, put, task):
    path = put("a")
    identity = make(views, "web", path)
    overwrite(store.locate(path) / "share" / "one")
    paths(root, task)

    assert mend(root, task) == []
    with pytest.raises(errors.ContentDamaged, match="store verify --repair"):
        views.mend(identity, never)
    assert views.damaged(identity) == (path,)


def test_a_view_without_a_file_is_found_and_mended(root, store, views, put, task):
    path = put("a")
    identity = make(views, "web", path)
    share = views.locate(identity) / "store" / path.basename / "share"
    share.chmod(0o755)
    (share / "two").unlink()

    (finding,) = views_of(root, task).damaged

    assert (finding.path, finding.environments) == (path.basename, [identity])
    assert store.record(path) is not None
    assert mend(root, task) == [identity]
    assert views_of(root, task).damaged == []


def test_a_path_that_is_missing_from_the_store_is_found_by_its_environment(
    root, store, views, put, task
):
    path = put("a")
    identity = make(views, "web", path)
    store.remove([path])

    assert paths(root, task).damaged == []
    (finding,) = views_of(root, task).damaged

    assert finding.environments == [identity]
    put("a")
    assert mend(root, task) == [identity]


def test_a_damaged_path_is_dropped_with_its_mark(store, put, root, task):
    path = put("a")
    store.condemn(path)

    store.remove([path])
    store.recover()

    assert list((store.directory / ".narinfo").iterdir()) == []


def test_a_mark_without_its_path_is_dropped_by_recovery(store, put):
    path = put("a")
    store.remove([path])
    store.condemn(path)

    store.recover()

    assert not store.is_damaged(path)


def test_what_was_found_damaged_meanwhile_is_not_linked_into_a_new_view(store, views, put):
    path = put("a")
    store.condemn(path)

    with (
        pytest.raises(errors.ContentDamaged, match="fetched anew"),
        views.stage("0-acme-web", never) as stage,
    ):
        stage.link([path])
    assert not views.has("0-acme-web")
