"""Processes are killed in the middle of realizations: nothing that is in place is ever in doubt."""

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
from cri_proxy.store import closures, views
from cri_proxy.store.local import Store
from tests.store.conftest import PROGRAM

DEADLINE_SECONDS = 60
KILLS = 60


@pytest.fixture
def wide(publisher):
    """A closure of forty paths, some of a single byte and some of megabytes."""
    generator = random.Random(11)
    paths = []
    for number in range(39):
        size = generator.choice([1, 1_000, 100_000, 2_000_000])
        tree = {f"dir-{n}/file": generator.randbytes(size // 5 + 1) for n in range(5)}
        paths.append(publisher.add(f"path-{number}", tree, paths[-3:]))
    return publisher.add("root", b"root", paths)


class Killing(Progress):
    """A progress that calls `strike` once so many of its numbers have been written."""

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


async def test_killed_workers_leave_whole_paths_only_and_the_realization_completes(
    greeting, wide, store, sound, server
):
    """A worker is killed at some report of progress, again and again, and the store emptied."""
    generator = random.Random(2024)
    kills = 0
    while kills < KILLS:
        pool = workers.Pool([sys.executable, "-c", PROGRAM], size=2, greeting=greeting(), nice=0)
        async with contextlib.aclosing(pool), contextlib.aclosing(closures.Closures(pool)) as ours:
            await ours.recover()

            def strike(pool=pool):
                nonlocal kills
                victim = generator.choice(pool.process_ids)
                os.kill(victim, signal.SIGKILL)
                kills += 1

            async with asyncio.timeout(DEADLINE_SECONDS):
                records = await ours.realize([wide], Killing(generator.randrange(110), strike))
            assert len(records) == 40
            assert len(sound()) == 40
        Store(store.directory).recover()
        assert len(store.paths()) == 40
        store.remove(generator.sample(store.paths(), 30))
        assert len(sound()) == 10


async def test_killed_daemon_leaves_whole_paths_only_and_the_next_one_completes(
    greeting, wide, store, sound
):
    """All processes at once, as the out-of-memory killer or a restart of the service does it."""
    generator = random.Random(1999)
    for _ in range(KILLS // 3):
        pool = workers.Pool([sys.executable, "-c", PROGRAM], size=2, greeting=greeting(), nice=0)
        struck = asyncio.Event()

        def strike(pool=pool, struck=struck):
            for victim in pool.process_ids:
                os.kill(victim, signal.SIGKILL)
            struck.set()

        async with contextlib.aclosing(pool), contextlib.aclosing(closures.Closures(pool)) as ours:
            await ours.recover()
            progress = Killing(generator.randrange(110), strike)
            task = asyncio.create_task(ours.realize([wide], progress))
            async with asyncio.timeout(DEADLINE_SECONDS):
                await struck.wait()
            task.cancel()
            await asyncio.wait([task])
        before = sound()
        Store(store.directory).recover()
        assert sound() == before
        leftovers = [each for each in (store.directory / ".stage").iterdir()]
        assert not leftovers
        pool = workers.Pool([sys.executable, "-c", PROGRAM], size=2, greeting=greeting(), nice=0)
        async with contextlib.aclosing(pool), contextlib.aclosing(closures.Closures(pool)) as ours:
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert len(await ours.realize([wide], Progress())) == 40
        assert len(sound()) == 40
        store.remove(store.paths())


VIEWER = """
import pathlib, sys
from cri_proxy.model import storepaths
from cri_proxy.store import local, views

store = local.Store(pathlib.Path(sys.argv[1]))
ours = views.Views(pathlib.Path(sys.argv[2]), store)
for number in range(1000):
    with ours.stage("one", lambda: None) as stage:
        print("staged", flush=True)
        stage.link(store.paths())
        print("linked", flush=True)
        stage.commit()
    print("committed", flush=True)
    ours.remove("one")
    print("removed", flush=True)
"""


async def test_view_is_whole_or_absent_whenever_its_process_is_killed(
    daemon, wide, store, tmp_path
):
    """Killed right after a random line of what it says, in the middle of the step that follows."""
    async with daemon() as ours:
        await ours.realize([wide], Progress())
    generator = random.Random(77)
    environments = views.Views(tmp_path / "node" / "environments", store)
    environments.recover()
    whole = {path.basename for path in store.paths()}
    for _ in range(20):
        argv = [sys.executable, "-c", VIEWER, store.directory, environments.directory]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
            for _ in range(generator.randrange(1, 12)):
                assert other.stdout.readline()
            other.kill()
        environments.recover()

        assert os.listdir(environments.directory / ".stage") == []
        for identity in environments.identities():
            place = environments.locate(identity) / "store"
            assert set(os.listdir(place)) == whole
            for path in store.paths():
                ours, theirs = place / path.basename, store.locate(path)
                assert sum(len(f) for *_, f in os.walk(ours)) == sum(
                    len(f) for *_, f in os.walk(theirs)
                )
        assert set(os.listdir(environments.directory)) <= {".stage", "one"}
