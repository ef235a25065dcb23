import asyncio
import gc
import threading

import pytest

from cri_proxy.lib.eventloop import Loop

WAIT_SECONDS = 60


async def thread():
    return threading.current_thread()


def test_a_coroutine_returns_its_result_to_other_threads():
    loop = Loop()

    assert loop.submit(asyncio.sleep(0, "done")).result(WAIT_SECONDS) == "done"
    assert loop.wait(asyncio.sleep(0, "done")) == "done"


def test_what_a_coroutine_raises_is_raised():
    async def fail():
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        Loop().wait(fail())


def test_one_thread_runs_all_coroutines_and_there_is_none_before():
    loop = Loop()
    assert not loop.is_started

    first, second = loop.wait(thread()), loop.wait(thread())

    assert first is second is not threading.current_thread()


def test_the_thread_ends_with_the_loop():
    loop = Loop()
    running = loop.wait(thread())
    del loop
    gc.collect()
    running.join(WAIT_SECONDS)

    assert not running.is_alive()


def test_what_still_runs_when_the_loop_ends_is_cancelled():
    loop, ended = Loop(), threading.Event()

    async def wait():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    loop.submit(wait())
    running = loop.wait(thread())
    del loop
    gc.collect()
    running.join(WAIT_SECONDS)

    assert ended.is_set()
