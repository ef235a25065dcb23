import asyncio
import itertools

from cri_proxy.store.fetch.turns import Turns


async def gather(*jobs):
    """Run jobs, each of which has taken its first step before any takes a turn."""
    await asyncio.gather(*jobs)


def taking(turns, order, name, times, gate, *, is_urgent=False):
    """A job that takes turns."""

    async def take():
        await gate.wait()
        for _ in range(times):
            await turns.take(is_urgent=is_urgent)
            order.append(name)

    return asyncio.create_task(take())


async def test_jobs_have_turns_one_after_the_other_and_urgent_ones_between_any_two():
    order, turns, gate = [], Turns(), asyncio.Event()
    jobs = [taking(turns, order, name, 3, gate) for name in ("a", "b")]
    jobs.append(taking(turns, order, "!", 3, gate, is_urgent=True))
    gate.set()
    await asyncio.gather(*jobs)

    urgent = [place for place, name in enumerate(order) if name == "!"]
    others = [name for name in order if name != "!"]
    assert urgent[-1] <= 5  # of nine turns: it had not to wait for two others in a row
    assert sorted(others) == ["a"] * 3 + ["b"] * 3
    assert all(one != two for one, two in itertools.pairwise(others))


async def test_many_urgent_jobs_leave_turns_to_the_others():
    order, turns, gate = [], Turns(), asyncio.Event()
    jobs = [taking(turns, order, "!", 4, gate, is_urgent=True) for _ in range(3)]
    jobs += [taking(turns, order, name, 4, gate) for name in ("a", "b", "c")]
    gate.set()
    await asyncio.gather(*jobs)

    first_half = order[: len(order) // 2]
    assert first_half.count("!") <= 9  # not all twelve before the others have begun
    assert {"a", "b", "c"} & set(first_half)


async def test_a_cancelled_job_leaves_its_turn_to_others():
    order, turns, gate = [], Turns(), asyncio.Event()
    gate.set()
    cancelled, other = (taking(turns, order, name, 1, gate) for name in ("a", "b"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled, other])

    assert order == ["b"]
    assert cancelled.cancelled()


async def test_what_arrives_is_taken_in_between_two_rounds():
    """A job that takes one turn after the other does not keep the event loop from its work."""
    turns, came = Turns(), asyncio.Event()
    asyncio.get_running_loop().call_later(0, came.set)
    rounds = 0
    while not came.is_set():
        await turns.take()
        rounds += 1

    assert rounds
