import threading

import pytest

from cri_proxy.lib.once import Once


def test_nothing_is_made_before_it_is_needed():
    made = []
    value = Once(lambda: made.append(1))

    assert made == []
    assert (value.get(), value.get(), made) == (None, None, [1])


def test_threads_that_need_it_at_once_share_one():
    made = []
    gate = threading.Barrier(8, timeout=30)

    def make():
        made.append(object())
        return made[-1]

    value = Once(make)
    got = []

    def need():
        gate.wait()
        got.append(value.get())

    threads = [threading.Thread(target=need) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)

    assert len(made) == 1
    assert got == made * 8


def test_failure_is_raised_and_not_kept():
    answers = iter([OSError("not yet"), "made"])

    def make():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    value = Once(make)
    with pytest.raises(OSError, match="not yet"):
        value.get()

    assert value.get() == "made"
