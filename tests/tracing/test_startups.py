"""The identity of startups, and how long they last, where nothing is sent."""

from __future__ import annotations

import asyncio
import dataclasses

from cri_proxy.tracing import startups
from cri_proxy.tracing.startups import Pod, Startups

IDS = ["9669b73a5f507bf9482157a803632b43", "a460d6d1d5966a54"]
POD = Pod("u", 0, "shop", "web", is_annotated=True)


def test_ids_follow_from_uid_and_attempt_and_nothing_else() -> None:
    renamed = dataclasses.replace(POD, name="other", namespace="else", is_annotated=False)

    assert startups.ids_of(POD) == startups.ids_of(renamed)
    assert startups.ids_of(POD) != startups.ids_of(dataclasses.replace(POD, attempt=1))
    assert startups.ids_of(POD) != startups.ids_of(dataclasses.replace(POD, uid="v"))


def test_ids_never_change_between_versions() -> None:
    assert [f"{number:x}" for number in startups.ids_of(POD)] == IDS


async def test_a_startup_is_open_until_it_has_been_quiet() -> None:
    found = Startups(queue=None, settle_seconds=0.01)
    startup = found.begin(POD, None)
    startup.enter()
    async with asyncio.timeout(30):
        await asyncio.sleep(0.05)
        is_open_during_a_call = startup.is_open
        found.leave(startup, None)
        while startup.is_open:
            await asyncio.sleep(0.01)

    assert is_open_during_a_call
    assert found.find(POD) is startup


async def test_a_call_that_comes_before_the_end_keeps_it_open() -> None:
    found = Startups(queue=None, settle_seconds=3600)
    startup = found.begin(POD, None)
    startup.enter()
    found.leave(startup, None)
    timer = startup.timer
    startup.enter()

    assert timer is not None
    assert timer.cancelled()
    assert found.begin(POD, None) is startup
    found.close()


async def test_a_stopped_sandbox_ends_its_startup_at_once() -> None:
    found = Startups(queue=None, settle_seconds=3600)
    startup = found.begin(POD, None)
    found.ran(startup, "sandbox")

    found.stop("sandbox")
    found.stop("unknown")

    assert not startup.is_open


async def test_a_stop_in_the_middle_of_a_call_is_a_failure() -> None:
    found = Startups(queue=None, settle_seconds=3600)
    startup = found.begin(POD, None)
    found.ran(startup, "sandbox")
    startup.enter()

    found.stop("sandbox")
    said = startup.failure
    found.leave(startup, "cancelled")

    assert said == "the sandbox was stopped while the pod was starting"
    assert startup.timer is None


async def test_a_container_is_known_by_its_id() -> None:
    found = Startups(queue=None, settle_seconds=3600)
    startup = found.begin(POD, None)

    found.created(startup, "container", "main", 2)

    assert found.of_container("container") is startup
    assert startup.containers["container"] == ("main", 2)
    assert found.of_container("other") is None
    found.close()
