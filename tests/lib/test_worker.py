import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.lib import worker

ARGV = [sys.executable, "-m", "tests.lib.worker_program"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


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
        program.stdin.write(worker.encode_frame(message))
    program.stdin.flush()


@given(st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON), max_size=4))
def test_frames_carry_messages_through_one_stream(messages):
    stream = io.BytesIO(b"".join(worker.encode_frame(message) for message in messages))

    assert [worker.read_frame(stream) for _ in messages] == messages
    assert worker.read_frame(stream) is None


@given(st.integers(0, 20))
def test_stream_that_ends_within_a_frame_has_ended(size):
    frame = worker.encode_frame({"id": 1, "result": {}})

    assert worker.read_frame(io.BytesIO(frame[: min(size, len(frame) - 1)])) is None


def test_frame_beyond_the_limit_is_neither_written_nor_read():
    with pytest.raises(worker.FrameInvalid, match="beyond"):
        worker.encode_frame({"text": "x" * worker.MAX_FRAME_BYTES})
    with pytest.raises(worker.FrameInvalid, match="beyond"):
        worker.length_of(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("payload", [b"{", b"[]", b"\xff", b""])
def test_payload_that_is_no_object_is_refused(payload):
    with pytest.raises(worker.FrameInvalid):
        worker.decode_payload(payload)


def test_input_that_ends_before_the_greeting_ends_the_worker(program):
    program.stdin.close()

    assert program.wait(60) == 0


def test_input_that_ends_during_a_job_ends_the_worker(program, tmp_path):
    send(
        program,
        {"greeting": {}, "nice": 0},
        {"id": 1, "job": "wait", "argument": {"fifo": str(tmp_path / "unused")}},
    )
    report = worker.read_frame(program.stdout)
    program.stdin.close()

    assert report == {"id": 1, "progress": {"pid": program.pid}}
    assert program.wait(60) == 0


def test_output_that_nobody_reads_any_more_ends_the_worker(program):
    send(program, {"greeting": {}, "nice": 0})
    program.stdout.close()
    send(program, {"id": 1, "job": "echo", "argument": {}})

    assert program.wait(60) == 0


def test_broken_frame_ends_the_worker_with_an_error(program):
    send(program, {"greeting": {}, "nice": 0})
    program.stdin.write(b"\xff\xff\xff\xff")
    program.stdin.flush()

    assert program.wait(60) == 1


def test_cancelled_job_is_answered_and_cancelling_a_finished_one_is_nothing(program, tmp_path):
    fifo = tmp_path / "said"
    fifo.touch()
    send(
        program,
        {"greeting": {}, "nice": 0},
        {"id": 99, "cancel": True},
        {"id": 1, "job": "wait", "argument": {"fifo": str(fifo)}},
        {"id": 1, "cancel": True},
    )
    answers = []
    while not answers or "progress" in answers[-1]:
        answers.append(worker.read_frame(program.stdout))

    assert answers[-1] == {"id": 1, "cancelled": True}


def test_error_crosses_by_name(program):
    refusal = errors.to_wire(errors.AccessDenied("mend the token"))
    send(
        program,
        {"greeting": {}, "nice": 0},
        {"id": 1, "job": "refuse", "argument": refusal},
    )

    assert worker.read_frame(program.stdout) == {"id": 1, "error": refusal}


def test_carried_job_takes_no_thread_and_fails_as_others_do(program):
    refusal = errors.to_wire(errors.AccessDenied("mend the token"))
    answers = []
    for number, argument in enumerate([{}, {"refuse": refusal}, {"then": "crash"}]):
        send(
            program,
            *([] if number else [{"greeting": {}, "nice": 0}]),
            {"id": number, "job": "carry", "argument": argument},
        )
        answers.append(worker.read_frame(program.stdout))

    assert answers[0] == {"id": 0, "result": {"threads": ["MainThread"]}}
    assert answers[1] == {"id": 1, "error": refusal}
    assert "LookupError: the lost thing" in answers[2]["error"]["message"]


def test_carried_job_is_cancelled_as_others_are(program, tmp_path):
    fifo = tmp_path / "said"
    fifo.touch()
    send(
        program,
        {"greeting": {}, "nice": 0},
        {"id": 1, "job": "carry", "argument": {"then": "wait", "fifo": str(fifo)}},
        {"id": 1, "cancel": True},
    )
    answers = []
    while not answers or "progress" in answers[-1]:
        answers.append(worker.read_frame(program.stdout))

    assert answers[-1] == {"id": 1, "cancelled": True}
