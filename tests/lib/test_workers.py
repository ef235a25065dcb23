import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import meters, pipe, workers
from cri_proxy.lib.job import Job
from tests.lib.worker_program import JOBS, LOOSE, STRICT

ARGV = [sys.executable, "-m", "tests.lib.worker_program"]
DEADLINE_SECONDS = 60


def names_in(directory):
    """What a directory holds, sorted."""
    return sorted(each.name for each in directory.iterdir())


def pool_of(argv=ARGV, *, size=2, settings=None, **options):
    """A pool that is closed at the end of a with statement."""
    return contextlib.aclosing(workers.Pool(argv, size=size, settings=settings or {}, **options))


def children():
    """What the main thread has started and not waited for, other tests' programs among it."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def until(probe):
    """Wait until `probe()` holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not probe():
            await asyncio.sleep(0.01)


async def started(pool, job, argument):
    """Start a job that reports its process; return its task and that process."""
    reports = asyncio.Queue()
    task = asyncio.create_task(pool.call(JOBS[job], argument, on_progress=reports.put_nowait))
    async with asyncio.timeout(DEADLINE_SECONDS):
        return task, (await reports.get())["pid"]


async def ended(pid):
    """Wait until a process that may not be our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], DEADLINE_SECONDS)
        assert ready, f"process {pid} is still there"
    finally:
        os.close(descriptor)


@pytest.fixture
def fifos(tmp_path):
    """Makes FIFOs: reading one blocks until it is written to."""

    def make(count=1):
        paths = [tmp_path / f"fifo-{number}" for number in range(count)]
        for path in paths:
            os.mkfifo(path)
        return [str(path) for path in paths]

    return make


def release(fifo):
    """Let the job that reads this FIFO go on."""
    Path(fifo).write_text("released")


async def test_job_returns_what_it_makes_of_its_argument():
    async with pool_of() as pool:
        argument = {"text": "ä\n\0", "list": [1, None, {"x": 2.5}]}

        assert await pool.call(JOBS["echo"], argument) == argument


async def test_reports_arrive_in_order_and_before_the_result():
    reports = []
    async with pool_of() as pool:
        result = await pool.call(JOBS["count"], {"to": 100}, on_progress=reports.append)

        assert [report["number"] for report in reports] == list(range(100))
        assert result == {"numbers": 100}


async def test_many_jobs_at_once_get_each_their_own_answer():
    async with pool_of() as pool:
        answers = await asyncio.gather(*(pool.call(JOBS["echo"], {"n": n}) for n in range(300)))

        assert [answer["n"] for answer in answers] == list(range(300))


async def test_error_of_ours_arrives_as_the_same_class():
    async with pool_of() as pool:
        refusal = errors.NodeExhausted("no room for x: free some space")

        with pytest.raises(errors.NodeExhausted, match="no room for x: free some space"):
            await pool.call(JOBS["refuse"], asdict(errors.to_wire(refusal)))


async def test_error_of_a_class_that_the_daemon_does_not_know_arrives_as_its_base():
    async with pool_of() as pool:
        with pytest.raises(errors.SourceUnreachable, match="does not answer"):
            await pool.call(JOBS["subclass"], {})


@pytest.mark.parametrize("argument", [{"n": "one"}, {"n": None}, ["n"]])
async def test_argument_of_another_type_is_an_internal_fault(argument):
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match=r"job strict .*Expected"):
            await pool.call(LOOSE, argument)


async def test_report_and_result_of_another_type_are_an_internal_fault():
    misread = Job("strict", dict[str, int], dict[str, str], dict[str, int])
    misjudged = Job("strict", dict[str, int], dict[str, int], dict[str, str])
    async with pool_of() as pool:
        for job in (misread, misjudged):
            with pytest.raises(errors.InternalFault, match=r"job strict .*Expected `str`"):
                await pool.call(job, {"n": 1}, on_progress=lambda report: None)

        assert await pool.call(STRICT, {"n": 1}) == {"n": 1}


async def test_argument_that_is_no_json_is_refused_before_it_is_sent():
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match="cannot be sent"):
            await pool.call(JOBS["echo"], {"text": object()})


async def test_other_exception_is_an_internal_fault_with_its_traceback_in_the_log(capfd):
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match=r"job crash .*LookupError: .*lost thing"):
            await pool.call(JOBS["crash"], {})

    assert 'raise LookupError("the lost thing")' in capfd.readouterr().err


async def test_unknown_job_is_an_internal_fault():
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match="no_such_job"):
            await pool.call(Job("no_such_job", dict, dict, dict), {})


@pytest.mark.parametrize(
    ("job", "argument"),
    [("misanswer", {}), ("inflate", {"size": pipe.MAX_FRAME_BYTES + 1}), ("desert", {})],
    ids=["not JSON", "beyond the largest frame", "a cancellation without a request"],
)
async def test_answer_that_cannot_be_given_fails_its_job_alone(job, argument):
    async with pool_of(size=1) as pool:
        before = await pool.call(JOBS["describe"], {})
        with pytest.raises(errors.InternalFault, match=job):
            await pool.call(JOBS[job], argument)
        after = await pool.call(JOBS["describe"], {})

        assert before["pid"] == after["pid"]


async def test_argument_beyond_the_largest_frame_is_refused_before_it_is_sent():
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match="cannot be sent"):
            await pool.call(JOBS["echo"], {"text": "x" * pipe.MAX_FRAME_BYTES})


async def test_exception_of_the_progress_callback_reaches_the_caller():
    def refuse(report):
        raise ZeroDivisionError

    async with pool_of() as pool:
        with pytest.raises(ZeroDivisionError):
            await pool.call(JOBS["count"], {"to": 3}, on_progress=refuse)

        assert await pool.call(JOBS["echo"], {}) == {}


async def test_what_a_job_prints_goes_to_the_log_and_standard_input_is_empty(capfd):
    async with pool_of() as pool:
        assert await pool.call(JOBS["chatter"], {}) == {"input": ""}

    assert "this is no frame\nnor is this\n" in capfd.readouterr().err


async def test_job_whose_worker_is_killed_is_tried_once_more(tmp_path):
    life = tmp_path / "life"
    life.touch()
    async with pool_of() as pool:
        assert await pool.call(JOBS["die"], {"lives": [str(life)]}) == {"survived": True}


async def test_job_that_kills_two_workers_fails(tmp_path):
    lives = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for life in lives:
        life.touch()
    async with pool_of() as pool:
        with pytest.raises(errors.InternalFault, match=r"two worker processes died during .* die"):
            await pool.call(JOBS["die"], {"lives": [str(life) for life in lives]})

        assert lives[2].exists()
        assert await pool.call(JOBS["echo"], {"still": "here"}) == {"still": "here"}


async def test_killing_a_worker_loses_none_of_its_jobs(fifos):
    """Those of the other worker are not even disturbed."""
    names = fifos(8)
    async with pool_of() as pool:
        held = [await started(pool, "hold", {"fifo": name}) for name in names]
        pids = [pid for _, pid in held]
        os.kill(pids[0], signal.SIGKILL)
        await ended(pids[0])
        results = asyncio.gather(*(task for task, _ in held))
        for name in names:
            await asyncio.wait_for(asyncio.to_thread(release, name), DEADLINE_SECONDS)

        assert [result["text"] for result in await results] == ["released"] * 8
        assert len(set(pids)) == 2


async def test_jobs_are_spread_over_no_more_workers_than_allowed(fifos):
    names = fifos(6)
    async with pool_of(size=3) as pool:
        held = [await started(pool, "hold", {"fifo": name}) for name in names]
        pids = [pid for _, pid in held]
        for name in names:
            await asyncio.to_thread(release, name)
        await asyncio.gather(*(task for task, _ in held))

        assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2, 2]
        assert set(pool.process_ids) == set(pids)


async def test_worker_is_reused_while_it_is_free():
    async with pool_of(size=8) as pool:
        pids = {(await pool.call(JOBS["describe"], {}))["pid"] for _ in range(5)}

        assert len(pids) == 1


async def test_cancelling_the_call_cancels_the_job_and_no_other(fifos):
    first, second = fifos(2)
    async with pool_of(size=1) as pool:
        waiting, _ = await started(pool, "wait", {"fifo": first})
        other, _ = await started(pool, "hold", {"fifo": second})
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        said = await asyncio.wait_for(asyncio.to_thread(Path(first).read_text), DEADLINE_SECONDS)
        await asyncio.to_thread(release, second)

        assert said == "cancelled"
        assert (await other)["text"] == "released"


async def test_cancelling_before_the_worker_has_started_is_fine():
    async with pool_of() as pool:
        task = asyncio.create_task(pool.call(JOBS["echo"], {}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await pool.call(JOBS["echo"], {"next": True}) == {"next": True}


async def test_idle_worker_leaves_and_the_next_job_gets_another():
    async with pool_of(idle_seconds=0.01) as pool:
        first = (await pool.call(JOBS["describe"], {}))["pid"]
        await ended(first)
        await until(lambda: not pool.process_ids)
        second = (await pool.call(JOBS["describe"], {}))["pid"]

        assert first != second


async def test_worker_at_work_is_not_idle(fifos):
    (name,) = fifos()
    async with pool_of(size=1, idle_seconds=0.01) as pool:
        held, pid = await started(pool, "hold", {"fifo": name})
        for _ in range(5):
            assert (await pool.call(JOBS["describe"], {}))["pid"] == pid
        await asyncio.to_thread(release, name)

        assert (await held)["text"] == "released"


async def test_closing_ends_workers_in_the_middle_of_their_jobs(fifos):
    async with pool_of() as pool:
        held, pid = await started(pool, "hold", {"fifo": fifos()[0]})
        await asyncio.wait_for(pool.aclose(), DEADLINE_SECONDS)

        with pytest.raises(errors.InternalFault, match="pool was closed during the job hold"):
            await held
        with pytest.raises(errors.InternalFault, match="after the worker pool was closed"):
            await pool.call(JOBS["echo"], {})
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_worker_that_does_not_leave_is_killed(monkeypatch):
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.1)
    async with pool_of() as pool:
        pid = (await pool.call(JOBS["describe"], {}))["pid"]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.wait_for(pool.aclose(), DEADLINE_SECONDS)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_pools_leave_no_descriptor_and_no_zombie():
    async def use_one():
        async with pool_of() as pool:
            await asyncio.gather(*(pool.call(JOBS["describe"], {}) for _ in range(4)))
            os.kill(pool.process_ids[0], signal.SIGKILL)
            await pool.call(JOBS["echo"], {})

    await use_one()  # what the loop opens once for all
    before, others = names_in(Path("/proc/self/fd")), children()
    for _ in range(3):
        await use_one()

    await until(lambda: len(names_in(Path("/proc/self/fd"))) <= len(before))
    assert children() <= others


async def test_worker_inherits_no_descriptor_of_another():
    """Else a worker would not see its input end when the daemon is gone."""
    async with pool_of(size=3) as pool:
        seen = await asyncio.gather(*(pool.call(JOBS["describe"], {}) for _ in range(3)))

        assert len({each["pid"] for each in seen}) == 3
        assert len({each["descriptors"] for each in seen}) == 1


async def test_what_jobs_count_is_added_to_the_daemons_counters():
    """Before their results arrive, so that a scrape after a call sees what the call counted."""
    name = f"test_{uuid.uuid4().hex}_total"
    seen = []

    def report(progress):
        seen.append(meters.COUNTERS[name].values())

    async with pool_of(size=2) as pool:
        await pool.call(JOBS["tally"], {"name": name}, on_progress=report)
        once = meters.COUNTERS[name].values()
        with pytest.raises(errors.NotFound):
            await pool.call(JOBS["tally"], {"name": name, "fail": True})

    assert seen == [{("before",): 1}]
    assert once == {("before",): 1, ("after",): 2}
    assert meters.COUNTERS[name].values() == {("before",): 2, ("after",): 4}


async def test_worker_sees_a_closed_environment(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    async with pool_of() as pool:
        environment = (await pool.call(JOBS["describe"], {}))["environment"]

        assert "SECRET_TOKEN" not in environment
        assert environment["https_proxy"] == "http://proxy.example:3128"
        assert environment["PATH"] == os.environ["PATH"]


async def test_worker_yields_the_processor_and_knows_its_settings():
    async with pool_of(settings={"store": "/x"}, nice=7) as pool:
        described = await pool.call(JOBS["describe"], {})

        assert described["nice"] == os.nice(0) + 7
        assert described["settings"] == {"store": "/x"}


async def test_settings_that_are_refused_refuses_every_job():
    async with pool_of(settings={"refuse": "politely"}) as pool:
        for _ in range(2):
            with pytest.raises(errors.RequestInvalid, match="fix them"):
                await pool.call(JOBS["echo"], {})


async def test_settings_that_break_the_worker_are_an_internal_fault(capfd):
    async with pool_of(settings={"refuse": "badly"}) as pool:
        with pytest.raises(errors.InternalFault, match="KeyError"):
            await pool.call(JOBS["echo"], {})

    assert "Traceback" in capfd.readouterr().err


async def test_signals_for_the_whole_group_are_left_to_the_daemon():
    async with pool_of() as pool:
        pid = (await pool.call(JOBS["describe"], {}))["pid"]
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)

        assert (await pool.call(JOBS["describe"], {}))["pid"] == pid


async def test_program_that_cannot_be_started_is_named():
    async with pool_of(["/no/such/program"]) as pool:
        with pytest.raises(errors.InternalFault, match="/no/such/program could not be started"):
            await pool.call(JOBS["echo"], {})


@pytest.mark.parametrize(
    "output",
    [r"\377\377\377\377", r"\000\000\000\004oops", r"\000\000\000\002[]", r"\000\000\000\100{", ""],
    ids=["a giant frame", "no JSON", "no object", "half a frame", "nothing"],
)
async def test_worker_that_breaks_the_protocol_is_ended(output):
    async with pool_of(["/bin/sh", "-c", f"head -c 4 >/dev/null; printf '{output}'"]) as pool:
        with pytest.raises(errors.InternalFault, match="two worker processes died"):
            await asyncio.wait_for(pool.call(JOBS["echo"], {}), DEADLINE_SECONDS)


async def test_worker_leaves_in_the_middle_of_a_job_when_the_daemon_is_killed(fifos):
    program = """
import asyncio, sys
from cri_proxy.lib import workers
from tests.lib import worker_program

async def main():
    argv = [sys.executable, "-m", "tests.lib.worker_program"]
    pool = workers.Pool(argv, size=1, settings={})
    show = lambda report: print(report["pid"], flush=True)
    await pool.call(worker_program.JOBS["hold"], {"fifo": sys.argv[1]}, on_progress=show)

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, fifos()[0]], stdout=subprocess.PIPE, text=True
    ) as daemon:
        pid = int(await asyncio.to_thread(daemon.stdout.readline))
        daemon.kill()

    await ended(pid)


async def test_warm_pool_has_all_its_workers_before_the_first_job():
    async with pool_of(size=3) as pool:
        pool.warm()
        await until(lambda: len(pool.process_ids) == 3)
        warmed = set(pool.process_ids)
        pool.warm()
        told = await pool.call(JOBS["describe"], {})

        assert told["pid"] in warmed
        assert set(pool.process_ids) == warmed


async def test_idle_workers_leave_but_for_those_that_are_kept():
    async with pool_of(size=3, idle_seconds=0.5, kept=1) as pool:
        pool.warm()
        await until(lambda: len(pool.process_ids) > 1)
        await until(lambda: len(pool.process_ids) == 1)
        kept = pool.process_ids
        await asyncio.sleep(1)  # twice as long as others may idle

        assert pool.process_ids == kept
        assert {(await pool.call(JOBS["describe"], {}))["pid"]} == set(kept)


async def test_heavy_job_has_its_worker_for_itself(fifos):
    names = fifos(4)
    async with pool_of(size=2) as pool:
        heavy = asyncio.Queue()
        task = asyncio.create_task(
            pool.call(JOBS["hold"], {"fifo": names[0]}, on_progress=heavy.put_nowait, weight=10)
        )
        busy = (await asyncio.wait_for(heavy.get(), DEADLINE_SECONDS))["pid"]
        light = [await started(pool, "hold", {"fifo": name}) for name in names[1:]]
        for name in names:
            await asyncio.wait_for(asyncio.to_thread(release, name), DEADLINE_SECONDS)
        await asyncio.gather(task, *(each for each, _ in light))

        assert busy not in {pid for _, pid in light}
