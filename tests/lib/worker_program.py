"""A worker whose jobs do what tests of the pool need: `python -m tests.lib.worker_program`."""

import os
import signal
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from cri_proxy import errors
from cri_proxy.lib import worker


def build(greeting):
    """Return the jobs; a greeting may ask to be refused."""
    match greeting.get("refuse"):
        case "politely":
            raise errors.RequestInvalid("this greeting cannot be read: mend the settings")
        case "badly":
            raise KeyError("greeting")
    return {
        "echo": lambda argument, task: argument,
        "describe": lambda argument, task: describe(greeting),
        "count": count,
        "refuse": refuse,
        "crash": crash,
        "die": die,
        "hold": hold,
        "wait": wait,
        "inflate": lambda argument, task: {"text": "x" * argument["size"]},
        "misanswer": lambda argument, task: {"answer": {1, 2}},
        "desert": desert,
        "chatter": chatter,
        "carry": worker.Carried(carry),
    }


def carry(argument, task):
    """Answer by another thread, which is named, or as asked for."""
    if "refuse" in argument:
        raise errors.of_wire(argument["refuse"])
    future = Future()

    def run():
        try:
            future.set_result({"crash": crash, "wait": wait}[argument["then"]](argument, task))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    thread = threading.Thread(target=run)
    if "then" in argument:
        thread.start()
    else:
        future.set_result({"threads": [each.name for each in threading.enumerate()]})
    return future


def describe(greeting):
    """Tell about this process."""
    return {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "environment": dict(os.environ),
        "greeting": greeting,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def count(argument, task):
    """Report one, two, three."""
    for number in range(argument["to"]):
        task.report({"number": number})
    return {"numbers": argument["to"]}


def refuse(argument, task):
    """Raise one of our errors."""
    raise errors.of_wire(argument)


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
    except worker.Cancelled:
        Path(argument["fifo"]).write_text("cancelled")
        raise
    return {}


def desert(argument, task):
    """Give up although nobody asked."""
    raise worker.Cancelled


def chatter(argument, task):
    """Print, from Python and from a program."""
    sys.stdout.write("this is no frame\n")
    sys.stdout.flush()
    os.system("echo nor is this")
    return {"input": os.read(0, 10).decode()}


if __name__ == "__main__":
    worker.serve(build)
