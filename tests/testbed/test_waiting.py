import pytest

from hack.testbed import waiting


def test_the_first_value_that_is_there_is_returned() -> None:
    answers = iter([None, False, 0])

    assert waiting.until(lambda: next(answers), what="an answer") == 0


def test_a_deadline_that_passes_says_what_was_awaited_and_what_there_was() -> None:
    with pytest.raises(waiting.DeadlineExceeded, match=r"waited 0.01 s for rain; the sky is blue"):
        waiting.until(lambda: None, what="rain", seconds=0.01, explain=lambda: "the sky is blue")


def test_a_fault_of_the_probe_is_not_waited_out() -> None:
    def probe() -> None:
        raise LookupError("nobody knows")

    with pytest.raises(LookupError):
        waiting.until(probe, what="an answer")
