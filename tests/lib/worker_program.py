"""A worker whose jobs do what tests of the pool need: `python -m tests.lib.worker_program`."""

import os
import signal
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from cri_proxy import errors
from cri_proxy.lib import meters, worker
from cri_proxy.lib.job import Cancelled, Job, Jobs

NAMES: Final = (
    *("echo", "describe", "count", "refuse", "subclass", "crash", "die", "hold", "wait"),
    *("inflate", "misanswer", "desert", "chatter", "tally"),
)
JOBS: Final = {name: Job(name, dict, dict, dict) for name in NAMES}
CARRY: Final = Job("carry", dict, dict, dict)
STRICT: Final = Job("strict", dict[str, int], dict[str, int], dict[str, int])
"""Does what `echo` does, and reports it, for numbers."""
LOOSE: Final = Job("strict", Any, Any, Any)
"""The same job, as one side has it that knows no better."""


class Passing(errors.SourceUnreachable):
    """An error that only this program knows."""


def build(settings):
    """Return the jobs; the settings may ask to be refused."""
    match settings.get("refuse"):
        case "politely":
            raise errors.RequestInvalid("these settings cannot be read: fix them")
        case "badly":
            raise KeyError("settings")
    functions = {
        "echo": lambda argument, task: argument,
        "describe": lambda argument, task: describe(settings),
        "count": count,
        "refuse": refuse,
        "subclass": subclass,
        "crash": crash,
        "die": die,
        "hold": hold,
        "wait": wait,
        "inflate": lambda argument, task: {"text": "x" * argument["size"]},
        "misanswer": lambda argument, task: {"answer": object()},
        "desert": desert,
        "chatter": chatter,
        "tally": tally,
    }
    return Jobs(
        *(JOBS[name].run_by(function) for name, function in functions.items()),
        CARRY.started_by(carry),
        STRICT.run_by(strict),
    )


def carry(argument, task):
    """Answer by another thread, which is named, or as asked for."""
    if "refuse" in argument:
        raise errors.of_wire(errors.ErrorRecord(**argument["refuse"]))
    future = Future()

    def run():
        try:
            future.set_result({"crash": crash, "wait": wait}[argument["then"]](argument, task))
        except BaseException as error:  # noqa: BLE001 - sent to the caller
            future.set_exception(error)

    thread = threading.Thread(target=run)
    if "then" in argument:
        thread.start()
    else:
        future.set_result({"threads": [each.name for each in threading.enumerate()]})
    return future


def describe(settings):
    """Describe this process."""
    return {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "environment": dict(os.environ),
        "settings": settings,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def count(argument, task):
    """Report one, two, three."""
    for number in range(argument["to"]):
        task.report({"number": number})
    return {"numbers": argument["to"]}


def tally(argument, task):
    """Count by a counter that only this process has, report, count again, and fail if asked."""
    counter = meters.counter(argument["name"], "Things.", "outcome")
    counter.add(1, "before")
    task.report({"counted": 1})
    counter.add(2, "after")
    if argument.get("fail"):
        raise errors.NotFound("nothing here; look elsewhere")
    return {}


def refuse(argument, task):
    """Raise one of our errors."""
    raise errors.of_wire(errors.ErrorRecord(**argument))


def subclass(argument, task):
    """Raise an error of a class that the daemon does not know."""
    raise Passing("the cache does not answer: try again")


def strict(argument, task):
    """Report and return the argument."""
    task.report(argument)
    return argument


def crash(argument, task):
    """Raise what no job should."""
    raise LookupError("the lost thing")


def die(argument, task):
    """Kill this process as often as there are files to remove."""
    for file in map(Path, argument["lives"]):
        if file.exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


def hold(argument, task):
    """Report this process, then block in a FIFO until the test writes there."""
    task.report({"pid": os.getpid()})
    return {"text": Path(argument["fifo"]).read_text()}


def wait(argument, task):
    """Report this process, then wait for cancellation; say so in a FIFO."""
    task.report({"pid": os.getpid()})
    pause = threading.Event()
    try:
        while not pause.wait(0.01):
            task.check()
    except Cancelled:
        Path(argument["fifo"]).write_text("cancelled")
        raise
    return {}


def desert(argument, task):
    """Give up although the job was not cancelled."""
    raise Cancelled


def chatter(argument, task):
    """Print, from Python and from a program."""
    sys.stdout.write("this is no frame\n")
    sys.stdout.flush()
    os.system("echo nor is this")
    return {"input": os.read(0, 10).decode()}


if __name__ == "__main__":
    worker.serve(dict, build)
