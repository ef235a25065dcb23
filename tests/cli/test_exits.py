import pytest

from cri_proxy import errors
from cri_proxy.cli import exits


@pytest.mark.parametrize(
    "kind", [errors.SourceUnreachable, errors.NodeExhausted, errors.StillRealizing]
)
def test_what_may_pass_by_itself_is_temporary(kind):
    assert exits.of_error(kind("x")) == exits.TEMPORARY


@pytest.mark.parametrize(
    "kind", [errors.NotFound, errors.AccessDenied, errors.InternalFault, errors.RequestInvalid]
)
def test_what_a_retry_does_not_fix_is_failed(kind):
    assert exits.of_error(kind("x")) == exits.FAILED


def test_the_worst_of_several_outcomes_counts():
    assert exits.of_several([0, 3, 1]) == exits.FAILED
    assert exits.of_several([0, 3, 0]) == exits.TEMPORARY
    assert exits.of_several([0, 0]) == exits.OK
