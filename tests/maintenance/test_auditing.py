"""Audit rounds: complete, resumed, failing, switched off."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.maintenance import auditing
from cri_proxy.maintenance.auditing import Auditing
from cri_proxy.model.storepaths import StorePath
from cri_proxy.settings.schema import AuditSettings, Settings, StoreSettings
from cri_proxy.store.disk import integrity
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from hack.testbed.binary_cache import Publisher
from tests.maintenance.loops import InProcess, logged, running
from tests.store.disk import nodes


@pytest.fixture
def pool(root: Path, views: Views) -> InProcess:
    return InProcess(integrity.jobs(root))


@pytest.fixture
def paths(store: Store, publisher: Publisher) -> list[StorePath]:
    """Three store paths, in the order of an audit."""
    made = [publisher.add(name, {"bin/x": name.encode()}) for name in ("a", "b", "c")]
    return sorted(nodes.commit(store, publisher, path) for path in made)


def audit_of(root: Path, pool: InProcess, *, megabytes_per_second: int = 1000) -> Auditing:
    settings = dataclasses.replace(
        Settings(),
        store=StoreSettings(root=root),
        audit=AuditSettings(megabytes_per_second=megabytes_per_second, interval_seconds=0.0),
    )
    return Auditing(settings, pool)


def rounds(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, int]]:
    """Return the logged paths, environments and findings of all rounds that have ended."""
    fields = logged(caplog, auditing, "audit round ended")
    return [(each["paths"], each["environments"], each["damaged"]) for each in fields]


async def test_a_round_checks_all_paths_and_environments_and_another_follows(
    root: Path,
    pool: InProcess,
    views: Views,
    paths: list[StorePath],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    nodes.realize(views, "web", *paths)
    async with running(audit_of(root, pool).run()):
        while len(rounds(caplog)) < 2:
            await asyncio.sleep(0)

    assert rounds(caplog)[:2] == [(3, 1, 0)] * 2
    record = json.loads((root / "audit.json").read_bytes())
    assert record["after"] == "" or record["after"] in {each.basename for each in paths}


async def test_damage_is_logged_with_its_environments(
    root: Path,
    pool: InProcess,
    store: Store,
    views: Views,
    paths: list[StorePath],
    caplog: pytest.LogCaptureFixture,
) -> None:
    identity = nodes.realize(views, "web", paths[1])
    file = store.locate(paths[1]) / "bin" / "x"
    file.chmod(0o644)
    file.write_bytes(b"damaged")
    async with running(audit_of(root, pool).run()):
        while not (found := logged(caplog, auditing, "store path damaged, quarantined")):
            await asyncio.sleep(0)

    assert (found[0]["path"], found[0]["environments"]) == (paths[1].basename, identity)
    assert store.is_damaged(paths[1])
    assert views.damaged(identity) == (paths[1],)


async def test_a_round_resumes_where_the_last_daemon_stopped(
    root: Path, pool: InProcess, paths: list[StorePath], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (root / "audit.json").write_text(json.dumps({"after": paths[1].basename, "ended_at": 0.0}))
    async with running(audit_of(root, pool).run()):
        while len(rounds(caplog)) < 2:
            await asyncio.sleep(0)

    assert [checked for checked, _, _ in rounds(caplog)[:2]] == [1, 3]


async def test_an_unreadable_record_of_progress_starts_a_new_round(
    root: Path, pool: InProcess, paths: list[StorePath], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (root / "audit.json").write_text("{")
    async with running(audit_of(root, pool).run()):
        while not rounds(caplog):
            await asyncio.sleep(0)

    assert rounds(caplog)[0][0] == len(paths)


async def test_a_failure_is_logged_and_retried(
    root: Path,
    pool: InProcess,
    paths: list[StorePath],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auditing, "_AGAIN_SECONDS", 0.0)
    caplog.set_level("INFO")
    pool.failure = errors.NodeExhausted("no memory")
    async with running(audit_of(root, pool).run()):
        while not (failures := logged(caplog, auditing, "audit failed, will retry")):
            await asyncio.sleep(0)
        assert not rounds(caplog)
        pool.failure = None
        while not rounds(caplog):
            await asyncio.sleep(0)

    assert str(failures[0]["why"]) == "no memory"


async def test_no_rate_is_no_audit(root: Path, pool: InProcess, paths: list[StorePath]) -> None:
    async with asyncio.timeout(60):
        await audit_of(root, pool, megabytes_per_second=0).run()

    assert not (root / "audit.json").exists()
