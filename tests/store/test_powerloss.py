"""Power failures: what is in place afterwards is intact, or dropped.

The disk is an ext4 that is shut down without writing what it holds in memory (`disks`), once as
ext4 is by default and once with names reaching the disk before contents. A new boot has another
boot id, so that is what the test gives the store that looks at the disk afterwards.
"""

import asyncio
import contextlib
import random

import pytest

from cri_proxy.lib import durable
from cri_proxy.model import storepaths
from cri_proxy.model.progress import Progress
from cri_proxy.store import nar
from cri_proxy.store.disk import views
from cri_proxy.store.disk.local import Store
from hack.testbed.disks import Disk

pytestmark = pytest.mark.disk

AFTER = [5, 20]
"""How often the progress of the last realization has changed when the power fails."""


@pytest.fixture(params=["tidy", "untidy"])
def disk(request, tmp_path):
    with Disk(tmp_path, is_untidy=request.param == "untidy") as disk:
        yield disk


@pytest.fixture
def store(disk):
    """The store of a node on that disk."""
    store = Store(disk.place / "store")
    store.recover()
    return store


@pytest.fixture
def environments(disk, store):
    environments = views.Views(disk.place / "environments", store)
    environments.recover()
    return environments


@pytest.fixture
def publish(publisher):
    """Publishes closures of seven paths each that have nothing in common."""
    generator = random.Random(5)

    def make(name):
        paths = []
        for number in range(6):
            size = generator.choice([1, 1_000, 100_000, 1_000_000])
            tree = {f"dir-{n}/file": generator.randbytes(size // 4 + 1) for n in range(4)}
            paths.append(publisher.add(f"{name}-{number}", tree, paths[-2:]))
        return publisher.add(name, b"root", paths)

    return make


class Cutting(Progress):
    """A progress that fails the disk when so many of its numbers have changed."""

    def __init__(self, after, disk):
        self.left = -1
        super().__init__()
        self.left, self.disk = after, disk

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name in {"paths_done", "paths_total", "bytes_done"} and self.left >= 0:
            super().__setattr__("left", self.left - 1)
            if self.left < 0:
                self.disk.fail()


def view(environments, name, paths):
    """Make an environment's view of some paths."""
    with environments.stage(name, lambda: None) as stage:
        stage.link(paths)
        stage.commit()


@pytest.fixture
def is_whole(publisher):
    """Return a function that compares a tree with what was published as a path."""

    def tell(path, place):
        info = publisher.narinfo(path)
        try:
            return nar.digest_of(place) == (info.nar_hash, info.nar_size)
        except OSError:
            return False

    return tell


@pytest.mark.parametrize("after", AFTER)
async def test_a_power_failure_leaves_whole_paths_only_and_the_rest_is_fetched_again(
    after, disk, store, environments, publish, is_whole, daemon, monkeypatch
):
    kept, fresh, underway = publish("kept"), publish("fresh"), publish("underway")
    async with daemon() as ours:
        closure = [each.path for each in await ours.realize([kept], Progress())]
        view(environments, "kept", closure)
        store.checkpoint()
        environments.checkpoint()
        durable.sync_filesystem(disk.place)  # the marks' new names follow within seconds
        await ours.realize([fresh], Progress())
        linked = store.paths()
        view(environments, "fresh", linked)
        with contextlib.suppress(Exception):  # whatever it is that a dead disk causes
            await ours.realize([underway], Cutting(after, disk))
            disk.fail()
    disk.restart()

    monkeypatch.setattr(durable, "boot_id", lambda: "f" * 32)
    again = Store(disk.place / "store")
    seen = views.Views(disk.place / "environments", again)
    again.recover()
    seen.recover()

    assert set(closure) <= set(again.paths())
    assert all(is_whole(path, again.locate(path)) for path in again.paths())
    assert "kept" in seen.identities()
    for identity in seen.identities():  # `fresh` as well, if the disk was quick
        for path in closure if identity == "kept" else linked:
            assert is_whole(path, seen.locate(identity) / "store" / path.basename)
    assert not list((disk.place / "store" / ".stage").iterdir())
    placed = {each.name for each in (disk.place / "environments").iterdir()}
    assert {each for each in placed if not each.startswith(".")} == set(seen.identities())
    async with daemon() as ours, asyncio.timeout(120):
        for root in (kept, fresh, underway):
            await ours.realize([root], Progress())
    assert all(is_whole(each, again.locate(each)) for each in again.paths())


@pytest.mark.parametrize("disk", ["untidy"], indirect=True)
async def test_without_its_mark_of_the_boot_a_path_would_be_believed_that_is_not_whole(
    disk, publish, is_whole, daemon, monkeypatch
):
    """Proves that the test above can fail: this disk does show names without their bytes."""
    async with daemon() as ours:
        await ours.realize([publish("lost")], Progress())
        disk.fail()
    disk.restart()
    seen = list((disk.place / "store").glob("*-lost*"))
    damaged = [each for each in seen if not is_whole(storepaths.of_basename(each.name), each)]

    assert damaged

    monkeypatch.setattr(durable, "boot_id", lambda: "f" * 32)
    again = Store(disk.place / "store")
    again.recover()
    assert not {each.name for each in damaged} & {each.basename for each in again.paths()}
    assert all(is_whole(path, again.locate(path)) for path in again.paths())
