import asyncio

import pytest

from cri_proxy.lib import singleflight


class Work:
    """Work that counts its beginnings and ends when the test says so."""

    def __init__(self, result=None):
        self.begun = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.result = result

    async def __call__(self):
        self.begun += 1
        try:
            await asyncio.wait_for(self.may_end.wait(), 60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def turn():
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_ask_share_one_result():
    flights, work = singleflight.Flights(), Work({"x": 1})
    askers = [asyncio.create_task(flights.fly("key", work)) for _ in range(5)]
    await turn()
    work.may_end.set()

    results = await asyncio.gather(*askers)

    assert work.begun == 1
    assert all(result is work.result for result in results)


async def test_keys_do_not_wait_for_each_other():
    flights, slow, quick = singleflight.Flights(), Work(), Work("quick")
    asker = asyncio.create_task(flights.fly("slow", slow))
    quick.may_end.set()

    assert await flights.fly("quick", quick) == "quick"
    assert not asker.done()
    await flights.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asker


async def test_all_who_ask_share_one_exception():
    flights, work = singleflight.Flights(), Work(ValueError("no"))
    askers = [asyncio.create_task(flights.fly("key", work)) for _ in range(3)]
    await turn()
    work.may_end.set()

    results = await asyncio.gather(*askers, return_exceptions=True)

    assert work.begun == 1
    assert results == [work.result] * 3


@pytest.mark.parametrize("result", ["fine", ValueError("no")])
async def test_finished_work_is_forgotten(result):
    flights = singleflight.Flights()
    for _ in range(2):
        work = Work(result)
        work.may_end.set()
        await asyncio.gather(flights.fly("key", work), return_exceptions=True)

        assert work.begun == 1
        assert "key" not in flights


async def test_work_goes_on_when_all_who_asked_are_gone_and_the_next_one_joins():
    flights, work = singleflight.Flights(), Work("done")
    first = asyncio.create_task(flights.fly("key", work))
    await turn()
    first.cancel()
    await asyncio.wait([first])
    next_one = asyncio.create_task(flights.fly("key", work))
    await turn()
    work.may_end.set()

    assert await next_one == "done"
    assert work.begun == 1


async def test_error_that_nobody_waits_for_is_no_noise(caplog):
    flights, work = singleflight.Flights(), Work(ValueError("no"))
    asker = asyncio.create_task(flights.fly("key", work))
    await turn()
    asker.cancel()
    work.may_end.set()
    await asyncio.wait([asker])
    await turn()

    assert "key" not in flights
    assert not caplog.records


async def test_work_that_does_not_last_is_cancelled_with_its_last_asker():
    flights, work = singleflight.Flights(is_lasting=False), Work("done")
    askers = [asyncio.create_task(flights.fly("key", work)) for _ in range(2)]
    await turn()
    askers[0].cancel()
    await turn()
    goes_on = not work.cancelled
    askers[1].cancel()
    await asyncio.wait(askers)
    await turn()

    assert goes_on
    assert work.cancelled == 1


async def test_asker_after_a_cancellation_begins_anew():
    flights, work = singleflight.Flights(is_lasting=False), Work("done")
    asker = asyncio.create_task(flights.fly("key", work))
    await turn()
    asker.cancel()
    await asyncio.wait([asker])
    work.may_end.set()

    assert await flights.fly("key", work) == "done"
    assert work.begun == 2


async def test_closing_cancels_all_work_and_waits_for_its_end():
    flights = singleflight.Flights()
    works = [Work() for _ in range(3)]
    askers = [asyncio.create_task(flights.fly(n, work)) for n, work in enumerate(works)]
    await turn()

    await flights.aclose()

    assert [work.cancelled for work in works] == [1, 1, 1]
    assert all(
        isinstance(e, asyncio.CancelledError)
        for e in await asyncio.gather(*askers, return_exceptions=True)
    )
