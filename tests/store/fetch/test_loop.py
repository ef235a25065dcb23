import itertools
import select
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from cri_proxy.store.fetch.loop import Loop
from tests.store.http.test_connections import WAIT_SECONDS


class Polled:
    """A descriptor that is readable when it is told."""

    def __init__(self):
        self._poll = select.epoll()

    def fileno(self):
        return self._poll.fileno()


def run(loop, *arguments, **options):
    """What comes of a job, when it does."""
    return loop.start(*arguments, **options).result(WAIT_SECONDS)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def at_once():
    """Runs each job in a thread of its own, as a worker does."""
    with ThreadPoolExecutor(8) as executor:
        yield executor.submit


def test_a_job_returns_its_result(loop):
    def turns():
        yield 0
        yield 0
        return "done"

    assert run(loop, turns(), Polled()) == "done"


def test_what_a_job_raises_is_raised(loop):
    def turns():
        yield 0
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        run(loop, turns(), Polled())


def test_one_thread_carries_all_jobs_and_ends_with_them(loop, at_once):
    threads = set()
    all_are_there = threading.Barrier(4)

    def turns():
        for _ in range(10):
            threads.add(threading.current_thread())
            yield 0

    def begin():
        all_are_there.wait(WAIT_SECONDS)
        run(loop, turns(), Polled())

    for each in [at_once(begin) for _ in range(4)]:
        each.result(WAIT_SECONDS)
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()

    assert run(loop, iter_of("again"), Polled()) == "again"


def iter_of(result):
    yield 0
    return result


def test_jobs_have_turns_one_after_the_other_and_urgent_ones_between_any_two(loop, at_once):
    order, there, gate = [], [], Future()

    def turns(name):
        there.append(name)
        yield gate
        for _ in range(3):
            order.append(name)
            yield 0

    jobs = [at_once(run, loop, turns(name), Polled()) for name in ("a", "b")]
    jobs.append(at_once(run, loop, turns("!"), Polled(), is_urgent=True))
    at_once(run, loop, opened(gate, there, 3), Polled()).result(WAIT_SECONDS)
    for each in jobs:
        each.result(WAIT_SECONDS)

    urgent = [place for place, name in enumerate(order) if name == "!"]
    others = [name for name in order if name != "!"]
    assert urgent[-1] <= 5  # of nine turns: it had not to wait for two others in a row
    assert sorted(others) == ["a"] * 3 + ["b"] * 3
    assert all(one != two for one, two in itertools.pairwise(others))


def opened(gate, there, count):
    """A job that opens a gate when so many are there."""
    while len(there) < count:
        yield 0
    gate.set_result(None)


def test_a_job_that_waits_for_a_future_goes_on_when_it_is_done(loop):
    future = Future()
    timer = threading.Timer(0, future.set_result, ["came"])

    def turns():
        timer.start()
        while not future.done():
            yield future
        return future.result()

    assert run(loop, turns(), Polled()) == "came"


def test_a_fault_of_the_loop_is_told_to_all_and_the_next_job_runs(loop, at_once):
    def waits():
        yield 3600

    def breaks():
        yield "no number of seconds"

    waiting = at_once(run, loop, waits(), Polled())
    with pytest.raises(TypeError):
        run(loop, breaks(), Polled())
    with pytest.raises(TypeError):
        waiting.result(WAIT_SECONDS)

    assert run(loop, iter_of("well"), Polled()) == "well"


def test_many_urgent_jobs_leave_turns_to_the_others(loop, at_once):
    order, there, gate = [], [], Future()

    def turns(name):
        there.append(name)
        yield gate
        for _ in range(4):
            order.append(name)
            yield 0

    jobs = [at_once(run, loop, turns("!"), Polled(), is_urgent=True) for _ in range(3)]
    jobs += [at_once(run, loop, turns(name), Polled()) for name in ("a", "b", "c")]
    at_once(run, loop, opened(gate, there, 6), Polled()).result(WAIT_SECONDS)
    for each in jobs:
        each.result(WAIT_SECONDS)

    first_half = order[: len(order) // 2]
    assert first_half.count("!") <= 9  # not all twelve before the others have begun
    assert {"a", "b", "c"} & set(first_half)
