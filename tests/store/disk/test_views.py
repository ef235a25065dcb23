import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.model import storepaths
from cri_proxy.store import nar
from cri_proxy.store.disk import views
from cri_proxy.store.disk.views import Views
from hack.testbed.binary_cache import Executable, Symlink, path_of, write_tree
from tests.store.disk import nodes
from tests.store.disk.nodes import GivenUp, give_up, names_in, never

TREE = {
    "bin/run": Executable(b"#!/bin/sh\n"),
    "bin/again": Symlink("run"),
    "share/doc/text": b"text",
    "share/empty/": b"",
}


@pytest.fixture
def environments(tmp_path, store):
    environments = Views(tmp_path / "node" / "environments", store)
    environments.recover()
    return environments


@pytest.fixture
def put(tmp_path, store, publisher):
    """Return a function that commits a tree to the store and returns its path."""
    publisher.compression = "none"

    def put_tree(name, tree):
        path = publisher.add(name, tree)
        return nodes.commit(store, publisher, path)

    return put_tree


def commit(environments, identity, paths):
    """Make a view of paths."""
    with environments.stage(identity, never) as stage:
        stage.link(paths)
        (stage.directory / "environment.json").write_text("{}")
        stage.commit()
    return environments.locate(identity)


def test_view_holds_the_closure_and_nothing_else(environments, store, put):
    tree, file, link = put("tree", TREE), put("file", b"f"), put("link", Symlink("/nowhere"))
    put("other", b"of another environment")
    place = commit(environments, "one", [tree, file, link])

    assert names_in(place / "store") == sorted(p.basename for p in (tree, file, link))
    for path in (tree, file, link):
        assert nar.digest_of(place / "store" / path.basename) == nar.digest_of(store.locate(path))
    assert environments.has("one")
    assert environments.identities() == ("one",)


def test_view_shares_its_files_with_the_store(environments, store, put):
    tree = put("tree", TREE)
    place = commit(environments, "one", [tree])

    for name in ("bin/run", "bin/again", "share/doc/text"):
        ours, theirs = place / "store" / tree.basename / name, store.locate(tree) / name
        assert ours.lstat().st_ino == theirs.lstat().st_ino


def test_everything_in_a_view_is_canonical_and_read_only(environments, put):
    """Rendered trees included, whatever the caller's umask and clock."""
    tree = put("tree", TREE)
    with environments.stage("one", never) as stage:
        stage.link([tree])
        write_tree(stage.store / "rendered", TREE)
        (stage.store / "rendered" / "bin" / "run").chmod(0o4775)
        (stage.store / "rendered" / "share" / "doc" / "text").chmod(0o666)
        stage.commit()
    place = environments.locate("one")

    for directory, names, files in os.walk(place / "store"):
        for name in [".", *names, *files]:
            each = Path(directory, name).lstat()
            assert each.st_mtime == 1
            assert stat.S_ISLNK(each.st_mode) or stat.S_IMODE(each.st_mode) in (0o444, 0o555)
    rendered = place / "store" / "rendered"
    assert stat.S_IMODE((rendered / "bin" / "run").stat().st_mode) == 0o555
    assert stat.S_IMODE((rendered / "share" / "doc" / "text").stat().st_mode) == 0o444


def test_stage_that_was_not_committed_leaves_nothing(environments, put):
    with environments.stage("one", never) as stage:
        stage.link([put("tree", TREE)])

    assert not environments.has("one")
    assert names_in(environments.directory) == [".locks", ".stage"]
    assert names_in(environments.directory / ".stage") == []


def test_held_identity_is_waited_for(environments, put):
    tree, seen, is_waiting = put("tree", TREE), [], threading.Event()

    def wait_for_it():
        with environments.stage("one", is_waiting.set):
            seen.append(environments.has("one"))

    with environments.stage("one", never) as stage:
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        assert is_waiting.wait(60)
        with pytest.raises(GivenUp), environments.stage("one", give_up):
            pass
        stage.link([tree])
        stage.commit()
    waiter.join(60)

    assert seen == [True]


def test_removed_view_is_gone_and_the_store_untouched(environments, store, put):
    tree = put("tree", TREE)
    commit(environments, "one", [tree])
    commit(environments, "two", [tree])

    assert environments.move_to_garbage("one")
    assert environments.identities() == ("two",)
    assert nar.digest_of(store.locate(tree)) == nar.digest_of(
        environments.locate("two") / "store" / tree.basename
    )
    assert not environments.move_to_garbage("one")


def test_held_view_is_not_removed(environments, put):
    with environments.stage("one", never) as stage:
        assert not environments.move_to_garbage("one")
        stage.link([put("tree", TREE)])
        stage.commit()
    assert environments.has("one")


def test_path_that_has_vanished_is_named(environments, publisher):
    absent = publisher.add("absent", b"x")
    with (
        pytest.raises(errors.ContentDamaged, match=f"{absent.basename} has vanished"),
        environments.stage("one", never) as stage,
    ):
        stage.link([absent])


def test_file_with_as_many_links_as_there_may_be_is_copied(environments, store, put, monkeypatch):
    """ext4 allows 65,000 links: too many to create here, so the kernel's refusal comes early."""
    tree = put("tree", TREE)
    link = os.link

    def refuse(source, target, **options):
        if source in {"run", "again"}:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target, **options)

    monkeypatch.setattr(views.os, "link", refuse)
    place = commit(environments, "one", [tree])

    copy, original = place / "store" / tree.basename / "bin/run", store.locate(tree) / "bin/run"
    assert copy.stat().st_ino != original.stat().st_ino
    assert nar.digest_of(place / "store" / tree.basename) == nar.digest_of(store.locate(tree))
    for name in ("run", "again"):
        assert copy.with_name(name).lstat().st_mtime == 1
    assert stat.S_IMODE(copy.stat().st_mode) == 0o555


def test_store_on_another_file_system_is_reported(tmp_path, store, put):
    path = put("thing", b"x")
    elsewhere = Path("/dev/shm")
    if elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("temporary files are in /dev/shm themselves")
    environments = Views(elsewhere / f"views-{os.getpid()}", store)
    environments.recover()
    try:
        with (
            pytest.raises(errors.RequestInvalid, match="must be on one file system"),
            environments.stage("one", never) as stage,
        ):
            stage.link([path])
    finally:
        durable.remove_tree(environments.directory)


def test_view_lasts_only_after_a_checkpoint(environments, put):
    place = commit(environments, "one", [put("tree", TREE)])
    boot = f".{durable.boot_id()[:8]}"
    before = set(names_in(place))
    environments.checkpoint()
    environments.checkpoint()

    assert before == {"store", "environment.json", boot}
    assert set(names_in(place)) == {"store", "environment.json", ".lasting"}
    assert environments.has("one")


def test_recovery_drops_views_that_the_machine_may_have_lost(environments, store, put):
    tree = put("tree", TREE)
    commit(environments, "synced", [tree])
    environments.checkpoint()
    place = commit(environments, "fresh", [tree])
    (place / f".{durable.boot_id()[:8]}").rename(place / ".0badb007")
    half = environments.directory / ".stage" / "half.tree"
    write_tree(half, TREE)
    Views(environments.directory, store).recover()

    assert environments.identities() == ("synced",)
    assert names_in(environments.directory) == [".locks", ".stage", "synced"]
    assert names_in(environments.directory / ".stage") == []


def test_recovery_leaves_held_views_alone(environments, store, put):
    with environments.stage("one", never) as stage:
        stage.link([put("tree", TREE)])
        Views(environments.directory, store).recover()
        stage.commit()

    assert environments.has("one")


@pytest.mark.parametrize("identity", ["", "..", ".stage", "a/b", "a\n", "x" * 300])
def test_invalid_identity_is_refused(environments, identity):
    with pytest.raises(errors.RequestInvalid, match="not the identity"):
        environments.has(identity)
    with pytest.raises(errors.RequestInvalid), environments.stage(identity, never):
        pass
    with pytest.raises(errors.RequestInvalid):
        environments.move_to_garbage(identity)


def test_killed_process_leaves_a_stage_that_the_next_one_drops(environments, store, put):
    tree = put("tree", TREE)
    program = (
        "import sys, pathlib; from cri_proxy.model import storepaths;"
        "from cri_proxy.store.disk import local, views;"
        "store = local.Store(pathlib.Path(sys.argv[1]));"
        "ours = views.Views(pathlib.Path(sys.argv[2]), store);"
        "held = ours.stage('one', lambda: None); stage = held.__enter__();"
        "stage.link([storepaths.parse(sys.argv[3])]); print('linked', flush=True);"
        "sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, store.directory, environments.directory, str(tree)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"linked\n"
        environments.recover()
        assert "one.tree" in names_in(environments.directory / ".stage")
        other.kill()
    place = commit(environments, "one", [tree])

    assert nar.digest_of(place / "store" / tree.basename) == nar.digest_of(store.locate(tree))
    assert names_in(environments.directory / ".stage") == []


def test_ordinary_user_can_keep_views(tmp_path):
    nodes.call_as_ordinary_user(tmp_path, "test_views", "keep_views")


def keep_views(home):
    """The life of a view, in the process of `test_ordinary_user_can_keep_views`."""
    from cri_proxy.store.disk.local import Store

    store = Store(home / "store")
    store.recover()
    path = path_of("tree", bytes(32))
    write_tree(store.locate(path), TREE)
    views._canonicalize(store.locate(path))
    environments = Views(home / "environments", store)
    environments.recover()
    commit(environments, "one", [path])
    commit(environments, "two", [path])
    assert environments.move_to_garbage("one")
    environments.checkpoint()
    environments.recover()
    assert environments.identities() == ("two",)


def test_view_without_links_has_mount_points(environments, store):
    """A directory for a directory, a file for a file; a symlink is copied."""
    names = ("1" * 32 + "-tree", "2" * 32 + "-file", "3" * 32 + "-link")
    paths = [storepaths.of_basename(each) for each in names]
    (store.directory / names[0] / "bin").mkdir(parents=True)
    (store.directory / names[1]).write_bytes(b"x")
    (store.directory / names[2]).symlink_to(names[1])
    with environments.stage("one", lambda: None) as stage:
        mounted = stage.make_mount_points(paths)
        stage.commit()
    place = environments.locate("one") / "store"

    assert mounted == tuple(store.directory / each for each in names[:2])
    assert list((place / names[0]).iterdir()) == []
    assert (place / names[1]).read_bytes() == b""
    assert (place / names[2]).readlink() == Path(names[1])


def test_linking_is_probed_with_one_file(environments, store):
    name = "1" * 32 + "-tree"
    (store.directory / name / "bin").mkdir(parents=True)
    (store.directory / name / "bin" / "x").write_bytes(b"x")
    with environments.stage("one", lambda: None) as stage:
        assert stage.can_link([storepaths.of_basename(name)])
        assert not list(stage.directory.glob(".probe"))
