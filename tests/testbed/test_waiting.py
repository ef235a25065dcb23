import pytest

from hack.testbed import waiting


def test_the_first_value_is_returned() -> None:
    answers = iter([None, False, 0])

    assert waiting.until(lambda: next(answers), what="an answer") == 0


def test_a_timeout_has_the_awaited_condition_and_the_last_state() -> None:
    with pytest.raises(waiting.DeadlineExceeded, match=r"waited 0.01 s for rain; the sky is blue"):
        waiting.until(lambda: None, what="rain", seconds=0.01, explain=lambda: "the sky is blue")


def test_an_exception_of_the_probe_ends_the_wait() -> None:
    def probe() -> None:
        raise LookupError("not found")

    with pytest.raises(LookupError):
        waiting.until(probe, what="an answer")
