import io
import threading

import pytest

from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.store.fetch.archives import Awaited, Watched

MIB = 1024 * 1024


class Counting(io.BytesIO):
    """A body that counts how often it is read, and by which state of a semaphore."""

    def __init__(self, data, turns):
        super().__init__(data)
        self.turns = turns
        self.free = []

    def read(self, size=-1):
        self.free.append(self.turns.acquire(blocking=False))
        if self.free[-1]:
            self.turns.release()
        return super().read(size)


@pytest.fixture
def task():
    return Task(lambda count: None)


def test_archive_comes_whole_in_pieces_of_any_size(task):
    data = bytes(range(256)) * 20_000
    turns = threading.Semaphore(1)
    awaited = Awaited(io.BytesIO(data), turns, task)

    with turns:
        assert b"".join(iter(lambda: awaited.read(100_001), b"")) == data
        assert awaited.read(1) == b""


def test_others_have_their_turn_while_bytes_are_awaited(task):
    turns = threading.Semaphore(1)
    body = Counting(bytes(3 * MIB), turns)
    awaited = Awaited(body, turns, task)
    with turns:
        while awaited.read(MIB):
            assert not turns.acquire(blocking=False)  # it has its turn again

    assert all(body.free)


def test_much_is_awaited_before_the_first_turn(task):
    turns = threading.Semaphore(1)
    body = Counting(bytes(MIB - 1), turns)
    Awaited(body, turns, task)

    assert body.tell() == MIB - 1


def test_cancelled_job_reads_no_further():
    task = Task(lambda count: None)
    body = io.BytesIO(bytes(3 * MIB))
    task.cancel()

    with pytest.raises(Cancelled):
        Awaited(body, threading.Semaphore(1), task)
    with pytest.raises(Cancelled):
        Watched(body, task).read(1)


def test_bytes_are_reported_now_and_then():
    reports = []
    watched = Watched(io.BytesIO(bytes(10 * MIB)), Task(reports.append))
    while watched.read(MIB):
        pass

    assert reports == [4 * MIB, 8 * MIB]
