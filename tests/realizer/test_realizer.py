"""From references to environments in place, with real workers, git and binary caches."""

from __future__ import annotations

import asyncio

import pytest

from cri_proxy import errors
from cri_proxy.model import references
from cri_proxy.model.environments import Mode
from cri_proxy.model.progress import Phase
from cri_proxy.realizer.realizer import Realizer
from hack.testbed import web
from tests.realizer.conftest import Node

WEB = references.parse("acme/web")
DEADLINE_SECONDS = 120


async def test_environment_is_in_place_with_its_closure_and_record(
    node: Node, realizer: Realizer
) -> None:
    hello = node.package("hello")
    node.push("web", hello, variables={"A": "b"})

    realization = realizer.begin(WEB)
    made = await realization.wait(DEADLINE_SECONDS)

    assert made.reference == WEB.at(1)
    assert set(made.closure) == {hello.path, made.flox_env}
    assert made.variables == (("A", "b"),)
    assert (made.store / made.flox_env.basename / "bin").readlink().is_relative_to(str(hello.path))
    assert (made.store / hello.path.basename / "bin" / "hello").read_bytes() == b"hello"
    assert realization.progress.phase is Phase.READY
    assert realization.progress.paths_done == 1
    assert await realizer.load(made.identity) is not None


async def test_callers_at_the_same_time_share_one_realization(
    node: Node, realizer: Realizer
) -> None:
    node.push("web", node.package("hello"))
    first, second = realizer.begin(WEB), realizer.begin(WEB)

    assert first is second
    assert await first.wait(DEADLINE_SECONDS) == await second.wait(DEADLINE_SECONDS)
    assert node.cache.count("/nar/*") == 1


async def test_two_references_to_one_lockfile_are_made_once(node: Node, realizer: Realizer) -> None:
    node.push("web", node.package("hello"))
    live, pinned = await asyncio.gather(
        realizer.begin(WEB).wait(DEADLINE_SECONDS), realizer.begin(WEB.at(1)).wait(DEADLINE_SECONDS)
    )

    assert live.identity == pinned.identity
    assert node.cache.count("/nar/*") == 1


async def test_tokens_modes_and_shells_are_realizations_of_their_own(
    node: Node, realizer: Realizer
) -> None:
    begun = [
        realizer.begin(WEB),
        realizer.begin(WEB, token="one"),
        realizer.begin(WEB, mode=Mode.DEV),
        realizer.begin(WEB, has_shell=True),
    ]

    assert len({id(each) for each in begun}) == 4
    await asyncio.gather(*(each.wait() for each in begun), return_exceptions=True)


async def test_environment_in_place_costs_no_cache(node: Node, realizer: Realizer) -> None:
    node.push("web", node.package("hello"))
    first = await realizer.begin(WEB).wait(DEADLINE_SECONDS)
    node.cache.stop()

    again = realizer.begin(WEB)

    assert (await again.wait(DEADLINE_SECONDS)).identity == first.identity
    assert again.progress.paths_present == again.progress.paths_total == 2


async def test_deadline_ends_the_waiting_and_not_the_work(node: Node, realizer: Realizer) -> None:
    node.push("web", node.package("hello"))
    hang = web.Hang()
    node.cache.fail("/nar/*", hang)
    realization = realizer.begin(WEB)

    with pytest.raises(errors.StillRealizing, match=r"environment acme/web is not on this node"):
        await realization.wait(0)
    assert not realization.is_done
    assert realizer.begin(WEB) is realization
    node.cache.heal()
    assert (await realization.wait(DEADLINE_SECONDS)).reference == WEB.at(1)


async def test_refusal_names_the_environment_and_the_next_attempt_is_another(
    node: Node, realizer: Realizer
) -> None:
    hello = node.package("hello")
    kept = node.publisher.narinfo(hello.path)
    node.publisher.remove(hello.path)
    node.push("web", hello)

    realization = realizer.begin(WEB)
    with pytest.raises(errors.NotFound, match=r"^environment acme/web: .*'hello'"):
        await realization.wait(DEADLINE_SECONDS)
    assert realization.has_failed
    node.publisher.put(kept)
    assert realizer.begin(WEB) is not realization
    assert await realizer.begin(WEB).wait(DEADLINE_SECONDS)


async def test_without_floxhub_the_last_known_generation_is_used_and_marked(node: Node) -> None:
    node.push("web", node.package("hello"))
    async with node.realizer() as realizer:
        fresh = await realizer.begin(WEB).wait(DEADLINE_SECONDS)
    node.hub.stop()
    async with node.realizer() as realizer:
        stale = await realizer.begin(WEB).wait(DEADLINE_SECONDS)

    assert (fresh.is_stale, stale.is_stale) == (False, True)
    assert fresh.identity == stale.identity


async def test_shell_of_the_settings_is_fetched_for_an_environment_that_needs_one(
    node: Node,
) -> None:
    bash = node.shell()
    node.push("web", node.package("hello"), hook="echo up")
    async with node.realizer() as realizer:
        made = await realizer.begin(WEB).wait(DEADLINE_SECONDS)

    assert made.shell == f"{bash}/bin/bash"
    assert bash in made.closure


async def test_environment_that_needs_a_shell_is_refused_where_there_is_none(
    node: Node, realizer: Realizer
) -> None:
    node.push("web", node.package("hello"), hook="echo up")

    with pytest.raises(errors.EnvironmentUnsuitable, match=r"activation\.shell"):
        await realizer.begin(WEB).wait(DEADLINE_SECONDS)


async def test_damaged_environment_is_not_loaded_and_is_made_again(
    node: Node, realizer: Realizer
) -> None:
    hello = node.package("hello")
    node.push("web", hello)
    made = await realizer.begin(WEB).wait(DEADLINE_SECONDS)
    (made.store.parent / ".damaged").write_text(f"{hello.path.basename}\n")

    assert await realizer.load(made.identity) is None
    assert (await realizer.begin(WEB).wait(DEADLINE_SECONDS)).identity == made.identity
    assert await realizer.load(made.identity) is not None


async def test_environment_that_is_not_in_place_is_none(realizer: Realizer) -> None:
    assert await realizer.load("0-acme-web") is None


async def test_closing_cancels_what_is_under_way(node: Node) -> None:
    node.push("web", node.package("hello"))
    node.cache.fail("/nar/*", web.Hang())
    async with node.realizer() as realizer:
        realization = realizer.begin(WEB)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not node.cache.count("/nar/*"):
                await asyncio.sleep(0.01)

    assert realization.has_failed
    node.cache.heal()
