"""Housekeeping: what makes it collect garbage, and what it does when that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from cri_proxy import errors
from cri_proxy.maintenance import housekeeping
from cri_proxy.maintenance.collection import Collection
from cri_proxy.maintenance.housekeeping import Housekeeping
from cri_proxy.settings.schema import GarbageSettings, MetricsSettings, Settings, StoreSettings
from cri_proxy.store.disk import garbage
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from hack.testbed.binary_cache import Publisher
from tests.maintenance.loops import InProcess, Runtime, logged, running
from tests.store.disk import nodes

ALWAYS = GarbageSettings(high_percent=0, low_percent=0, grace_seconds=0.0, interval_seconds=0.0)
"""Any disk is too full for it."""
FAILED = "garbage collection failed, will retry"
NEVER = GarbageSettings(high_percent=100, age_seconds=0.0, interval_seconds=0.0)
"""No disk is too full for it, and nothing is too old."""


@pytest.fixture
def pool(root: Path) -> InProcess:
    return InProcess(garbage.jobs(root))


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


def loop_of(
    root: Path, pool: InProcess, runtime: Runtime, settings: GarbageSettings
) -> Coroutine[Any, Any, None]:
    wanted = dataclasses.replace(
        Settings(),
        store=StoreSettings(root=root),
        garbage=settings,
        metrics=MetricsSettings(listen=""),
    )
    return Housekeeping(wanted, Collection(root, runtime, pool, dict), pool).run()


async def test_a_disk_that_is_too_full_loses_environments_and_what_stays_is_explained_once(
    root: Path,
    pool: InProcess,
    runtime: Runtime,
    views: Views,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    kept = views.locate(nodes.realize(views, "kept"))
    gone = views.locate(nodes.realize(views, "gone"))
    runtime.create(kept.name)
    checks: list[int] = []

    async def count() -> None:
        checks.append(1)
        runtime.on_list.append(count)

    runtime.on_list = [count]
    async with running(loop_of(root, pool, runtime, ALWAYS)):
        while not logged(caplog, housekeeping, FAILED):
            await asyncio.sleep(0)
        before = len(checks)
        while len(checks) < before + 2:
            await asyncio.sleep(0)

    (removed,) = logged(caplog, housekeeping, "environment removed")
    assert (str(removed["reference"]), removed["why"]) == ("acme/gone:1", "room")
    assert (kept.exists(), gone.exists()) == (True, False)
    (failure,) = logged(caplog, housekeeping, FAILED)
    assert "nothing more can be removed" in str(failure["why"])
    assert not list((views.directory / ".garbage").iterdir())


async def test_old_environments_go_from_a_disk_with_room(
    root: Path,
    pool: InProcess,
    runtime: Runtime,
    views: Views,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    old = views.locate(nodes.realize(views, "old"))
    new = views.locate(nodes.realize(views, "new"))
    os.utime(old / "environment.json", (1000.0, 1000.0))
    settings = dataclasses.replace(NEVER, age_seconds=1.0, grace_seconds=0.0)
    os.utime(new / "environment.json", (time.time() + 3600,) * 2)
    async with running(loop_of(root, pool, runtime, settings)):
        while not (removed := logged(caplog, housekeeping, "environment removed")):
            await asyncio.sleep(0.01)

    assert [(str(each["reference"]), each["why"]) for each in removed] == [("acme/old:1", "age")]
    assert (old.exists(), new.exists()) == (False, True)


async def test_what_a_crash_left_undeleted_is_deleted(
    root: Path, pool: InProcess, runtime: Runtime, store: Store, publisher: Publisher
) -> None:
    path = nodes.commit(store, publisher, publisher.add("a", {"bin/x": b"x"}))
    assert store.evict(path, unused_since=time.time() + 60)
    left = store.directory / ".garbage"
    assert list(left.iterdir())
    async with running(loop_of(root, pool, runtime, NEVER)):
        while list(left.iterdir()):
            await asyncio.sleep(0)

    assert store.paths() == ()


async def test_a_failure_is_logged_once_until_it_changes_or_is_over(
    root: Path,
    pool: InProcess,
    runtime: Runtime,
    views: Views,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = views.locate(nodes.realize(views, "gone"))
    reasons = ["unavailable", "unavailable", "unavailable", "still unavailable"]

    async def fail() -> None:
        raise errors.SourceUnreachable(reasons.pop(0))

    runtime.on_list = [fail] * len(reasons)
    async with running(loop_of(root, pool, runtime, ALWAYS)):
        while gone.exists():
            await asyncio.sleep(0)

    failures = [str(each["why"]) for each in logged(caplog, housekeeping, FAILED)]
    assert failures[:2] == ["unavailable", "still unavailable"]


def test_usage_is_that_of_the_file_system_without_its_reserve(tmp_path: Path) -> None:
    usage = housekeeping._usage_of(tmp_path)
    state = os.statvfs(tmp_path)

    assert 0 < usage.share <= 1
    assert usage.all_bytes <= state.f_blocks * state.f_frsize
    assert usage.excess_bytes(100) <= 0 <= usage.excess_bytes(0)


def test_usage_is_the_higher_share_of_space_and_inodes() -> None:
    assert housekeeping._Usage(50, 100, 0.2).share == 0.5
    assert housekeeping._Usage(50, 100, 0.9).share == 0.9
    assert housekeeping._Usage(50, 100, 0.9).excess_bytes(30) == 20


def test_periodic_work_is_first_due_some_minutes_after_the_start_and_then_every_period() -> None:
    now = time.monotonic()
    fresh, old = housekeeping._Due(_began=now), housekeeping._Due(_began=now - 301)

    assert not fresh.has_come("age", 3600)
    assert old.has_come("age", 3600)
    assert not old.has_come("age", 3600)
    assert old.has_come("forget", 86400)
