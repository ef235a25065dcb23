"""Processes are killed in the middle of realizations: what is in place is always intact."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys

import pytest

from cri_proxy.lib import workers
from cri_proxy.model.progress import Progress
from cri_proxy.store.disk import views
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import closures
from tests.store.conftest import PROGRAM
from tests.store.disk import nodes
from tests.store.disk.nodes import names_in

DEADLINE_SECONDS = 120
KILLS = 50
MOMENTS = 70  # how often the progress of a whole realization changes, and a few more


pytestmark = pytest.mark.timeout(900)  # each of the three kills many processes in turn


@pytest.fixture
def wide(publisher):
    """A closure of 24 paths, some of a few bytes and some of hundreds of kilobytes."""
    generator = random.Random(11)
    paths = []
    for number in range(23):
        size = generator.choice([1, 1_000, 100_000, 500_000])
        tree = {f"dir-{n}/file": generator.randbytes(size // 5 + 1) for n in range(5)}
        paths.append(publisher.add(f"path-{number}", tree, paths[-3:]))
    return publisher.add("root", b"root", paths)


@pytest.fixture
async def pool(options):
    """Two workers, and others in place of those that die."""
    argv = [sys.executable, "-c", PROGRAM]
    async with contextlib.aclosing(workers.Pool(argv, size=2, settings=options(), nice=0)) as pool:
        yield pool


class Killing(Progress):
    """A progress that calls `strike` when so many of its numbers have changed."""

    def __init__(self, after, strike):
        self.left = -1
        super().__init__()
        self.left, self.strike = after, strike

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name in {"paths_done", "paths_total", "bytes_done"} and self.left >= 0:
            super().__setattr__("left", self.left - 1)
            if self.left < 0:
                self.strike()


def kill(victims):
    """Kill processes, as the out-of-memory killer does."""
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


async def test_killed_workers_leave_whole_paths_only_and_the_realization_completes(
    pool, wide, store, sound
):
    """One of two dies at some moment of a realization; its job is retried once."""
    generator = random.Random(2024)
    killed = []

    def strike():
        killed.append(generator.choice(pool.process_ids))
        kill(killed[-1:])

    async with contextlib.aclosing(closures.Closures(pool)) as ours:
        await ours.recover()
        while len(killed) < KILLS:
            progress = Killing(generator.randrange(MOMENTS), strike)
            async with asyncio.timeout(DEADLINE_SECONDS):
                records = await ours.realize([wide], progress)

            assert len(records) == len(sound()) == 24
            Store(store.directory).recover()
            assert len(store.paths()) == 24
            nodes.remove(store, generator.sample(store.paths(), generator.randrange(10, 25)))
            sound()
            async with asyncio.timeout(DEADLINE_SECONDS):  # or the next one's survey dies twice
                while killed[-1:] and killed[-1] in pool.process_ids:
                    await asyncio.sleep(0.01)


async def test_when_all_processes_die_at_once_the_next_ones_complete(pool, wide, store, sound):
    """As when the machine's service manager kills the whole service."""
    generator = random.Random(1999)
    async with contextlib.aclosing(closures.Closures(pool)) as ours:
        await ours.recover()
        for _ in range(KILLS // 2):
            struck = asyncio.Event()

            def strike(struck=struck):
                struck.set()
                kill(pool.process_ids)

            progress = Killing(generator.randrange(MOMENTS - 10), strike)
            async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
                realization = group.create_task(ours.realize([wide], progress))
                await struck.wait()
                realization.cancel()
            async with asyncio.timeout(DEADLINE_SECONDS):
                while pool.process_ids:
                    await asyncio.sleep(0.01)
            before = sound()
            Store(store.directory).recover()

            assert sound() == before
            assert not list((store.directory / ".stage").iterdir())
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert len(await ours.realize([wide], Progress())) == 24
            assert len(sound()) == 24
            nodes.remove(store, store.paths())


VIEWER = """
import pathlib, sys
from cri_proxy.model import storepaths
from cri_proxy.store.disk import local, views

store = local.Store(pathlib.Path(sys.argv[1]))
ours = views.Views(pathlib.Path(sys.argv[2]), store)
for number in range(1000):
    with ours.stage("one", lambda: None) as stage:
        print("staged", flush=True)
        stage.link(store.paths())
        print("linked", flush=True)
        stage.commit()
    print("committed", flush=True)
    with ours._area.try_hold("one"):
        ours._area.remove("one")
    print("removed", flush=True)
"""


async def test_view_is_whole_or_absent_whenever_its_process_is_killed(
    daemon, wide, store, tmp_path
):
    """Killed right after a random line of its output, in the middle of the next step."""
    async with daemon() as ours:
        await ours.realize([wide], Progress())
    generator = random.Random(77)
    environments = views.Views(tmp_path / "node" / "environments", store)
    environments.recover()
    whole = {path.basename for path in store.paths()}
    for _ in range(10):
        argv = [sys.executable, "-c", VIEWER, store.directory, environments.directory]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
            for _ in range(generator.randrange(1, 12)):
                assert other.stdout.readline()
            other.kill()
        environments.recover()

        assert names_in(environments.directory / ".stage") == []
        for identity in environments.identities():
            place = environments.locate(identity) / "store"
            assert set(names_in(place)) == whole
            for path in store.paths():
                ours, theirs = place / path.basename, store.locate(path)
                assert sum(len(f) for *_, f in os.walk(ours)) == sum(
                    len(f) for *_, f in os.walk(theirs)
                )
        assert set(names_in(environments.directory)) <= {".locks", ".stage", "one"}
