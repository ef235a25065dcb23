"""Maintenance in the background, and that calls do not notice it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from cri_proxy.cri import methods
from hack.testbed import waiting
from tests.daemon.conftest import Station

FILES = 20_000
LISTS = methods.path_of("ListPodSandbox")
STATUS = methods.path_of("Status")


def taken_away(station: Station) -> Path:
    """Leave a large environment that was taken away, and not deleted yet."""
    place = station.proxy.environments / ".garbage" / "0123456789abcdef"
    for directory in range(FILES // 100):
        (place / "store" / str(directory)).mkdir(parents=True)
        for file in range(100):
            (place / "store" / str(directory) / str(file)).touch()
    return place


async def test_calls_are_answered_while_a_large_environment_is_deleted(station: Station) -> None:
    place = await asyncio.to_thread(taken_away, station)
    await asyncio.to_thread(station.proxy.start)
    await station.caller.channel_ready()

    meanwhile = 0
    async with asyncio.timeout(120):
        while place.exists():
            assert await station.caller.unary_unary(STATUS)(b"asked", timeout=60) == b"asked"
            meanwhile += 1

    assert meanwhile > 0


async def test_a_full_disk_is_logged_once_while_the_runtime_cannot_say_what_is_used(
    station: Station,
) -> None:
    station.runtime.fail(LISTS, grpc.StatusCode.UNAVAILABLE, "not now")
    station.proxy.configure(
        {"garbage": {"high_percent": 1, "low_percent": 0, "interval_seconds": 1}}
    )
    await asyncio.to_thread(station.proxy.start)

    await station.runtime.called(LISTS, times=3)

    def failures() -> int:
        return station.proxy.log_text().count("garbage collection failed, will retry")

    await asyncio.to_thread(waiting.until, lambda: failures() > 0, what="the failure to be logged")
    assert failures() == 1
