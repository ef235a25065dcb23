import pytest

from cri_proxy.http.statuses import Meaning, meaning_of


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, Meaning.OK),
        (401, Meaning.DENIED),
        (403, Meaning.DENIED),
        (404, Meaning.MISSING),
        (410, Meaning.MISSING),
        (408, Meaning.TRANSIENT),
        (425, Meaning.TRANSIENT),
        (429, Meaning.TRANSIENT),
        (500, Meaning.TRANSIENT),
        (503, Meaning.TRANSIENT),
        (599, Meaning.TRANSIENT),
        (204, Meaning.REFUSED),
        (206, Meaning.REFUSED),
        (304, Meaning.REFUSED),
        (400, Meaning.REFUSED),
        (407, Meaning.REFUSED),
    ],
)
def test_statuses_mean_what_a_caller_can_do(status, meaning):
    assert meaning_of(status) is meaning
