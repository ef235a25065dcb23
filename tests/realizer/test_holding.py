"""What is held while it is used, and given up however the use ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cri_proxy.lib import durable
from cri_proxy.realizer import holding
from cri_proxy.store.disk import leases
from cri_proxy.store.disk.leases import Realizations

DEADLINE_SECONDS = 60


@pytest.fixture
def running(tmp_path: Path) -> Realizations:
    return Realizations(tmp_path)


async def test_realization_is_held_until_its_end(running: Realizations) -> None:
    async with holding.realization(running):
        assert running.oldest() is not None

    assert running.oldest() is None


async def test_realization_that_fails_is_given_up(running: Realizations) -> None:
    with pytest.raises(ZeroDivisionError):
        async with holding.realization(running):
            raise ZeroDivisionError

    assert running.oldest() is None


async def test_realization_that_is_cancelled_while_its_lease_is_made_is_given_up(
    running: Realizations, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    begin = Realizations.begin

    def slow(self: Realizations) -> durable.Lock:
        lease = begin(self)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(DEADLINE_SECONDS)
        return lease

    async def hold() -> None:
        async with holding.realization(running):
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr(Realizations, "begin", slow)
    task = asyncio.create_task(hold())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running.oldest() is not None
        released.set()
        while running.oldest() is not None:
            await asyncio.sleep(0)


async def test_environment_that_is_gone_is_none(tmp_path: Path) -> None:
    assert await holding.environment(tmp_path / "gone") is None


async def test_environment_is_shared_and_cannot_be_claimed_meanwhile(tmp_path: Path) -> None:
    first = await holding.environment(tmp_path)
    second = await holding.environment(tmp_path)
    assert first is not None
    assert second is not None

    first.release()
    assert leases.claim(tmp_path) is None
    second.release()
    claimed = leases.claim(tmp_path)
    assert claimed is not None
    claimed.release()


async def test_environment_that_is_claimed_is_waited_for(tmp_path: Path) -> None:
    claimed = leases.claim(tmp_path)
    assert claimed is not None
    waiting = asyncio.create_task(holding.environment(tmp_path))
    await asyncio.sleep(0)
    assert not waiting.done()

    claimed.release()
    async with asyncio.timeout(DEADLINE_SECONDS):
        lease = await waiting
    assert lease is not None
    lease.release()
