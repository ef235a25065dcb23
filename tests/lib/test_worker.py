import subprocess
import sys
from dataclasses import asdict

import msgspec
import pytest

from cri_proxy import errors
from cri_proxy.lib import codec, pipe

ARGV = [sys.executable, "-m", "tests.lib.worker_program"]


@pytest.fixture
def program():
    """A worker with plain pipes."""
    with subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def send(program, *messages):
    """Write frames to a worker."""
    for message in messages:
        program.stdin.write(pipe.frame_of(message))
    program.stdin.flush()


def start(number, job, argument):
    """A message that starts a job."""
    return pipe.StartMessage(number, job, raw(argument))


def raw(value):
    return msgspec.Raw(codec.encode(value))


def read(program):
    """Return the next message of a worker, with all that it carries decoded."""
    head = program.stdout.read(pipe.HEAD_BYTES)
    return codec.decode(program.stdout.read(pipe.length_of(head)), dict)


INIT = pipe.InitMessage(raw({}), 0)


def test_input_that_ends_before_the_init_message_ends_the_worker(program):
    program.stdin.close()

    assert program.wait(60) == 0


def test_input_that_ends_during_a_job_ends_the_worker(program, tmp_path):
    send(
        program,
        INIT,
        start(1, "wait", {"fifo": str(tmp_path / "unused")}),
    )
    report = read(program)
    program.stdin.close()

    assert report == {"type": "progress", "id": 1, "report": {"pid": program.pid}}
    assert program.wait(60) == 0


def test_output_that_is_closed_ends_the_worker(program):
    send(program, INIT)
    program.stdout.close()
    send(program, start(1, "echo", {}))

    assert program.wait(60) == 0


def test_broken_frame_ends_the_worker_with_an_error(program):
    send(program, INIT)
    program.stdin.write(b"\xff\xff\xff\xff")
    program.stdin.flush()

    assert program.wait(60) == 1


def test_cancelled_job_is_answered_and_cancelling_a_finished_one_is_nothing(program, tmp_path):
    fifo = tmp_path / "said"
    fifo.touch()
    send(
        program,
        INIT,
        pipe.CancelMessage(99),
        start(1, "wait", {"fifo": str(fifo)}),
        pipe.CancelMessage(1),
    )
    answers = []
    while not answers or answers[-1]["type"] == "progress":
        answers.append(read(program))

    assert answers[-1] == {"type": "cancelled", "id": 1}


def test_error_crosses_by_name(program):
    refusal = asdict(errors.to_wire(errors.AccessDenied("replace the token")))
    send(
        program,
        INIT,
        start(1, "refuse", refusal),
    )

    assert read(program) == {"type": "error", "id": 1, "error": refusal}


def test_carried_job_takes_no_thread_and_fails_as_others_do(program):
    refusal = asdict(errors.to_wire(errors.AccessDenied("replace the token")))
    answers = []
    for number, argument in enumerate([{}, {"refuse": refusal}, {"then": "crash"}]):
        send(
            program,
            *([] if number else [INIT]),
            start(number, "carry", argument),
        )
        answers.append(read(program))

    assert answers[0] == {"type": "result", "id": 0, "result": {"threads": ["MainThread"]}}
    assert answers[1] == {"type": "error", "id": 1, "error": refusal}
    assert "LookupError: the lost thing" in answers[2]["error"]["message"]


def test_carried_job_is_cancelled_as_others_are(program, tmp_path):
    fifo = tmp_path / "said"
    fifo.touch()
    send(
        program,
        INIT,
        start(1, "carry", {"then": "wait", "fifo": str(fifo)}),
        pipe.CancelMessage(1),
    )
    answers = []
    while not answers or answers[-1]["type"] == "progress":
        answers.append(read(program))

    assert answers[-1] == {"type": "cancelled", "id": 1}


def test_argument_of_another_type_fails_its_job_with_the_place(program):
    send(program, INIT, start(1, "strict", {"n": "one"}), start(2, "strict", {"n": 1}))
    answers = [read(program) for _ in range(3)]

    failed = next(each for each in answers if each["id"] == 1)
    assert "Expected `int`, got `str` - at `$[...]`" in failed["error"]["message"]
    assert {"type": "result", "id": 2, "result": {"n": 1}} in answers
