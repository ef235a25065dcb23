import errno
import os

import pytest

from cri_proxy.http.failures import text_of


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), "Connection"),
        (OSError("said so"), "said so"),
        (ValueError("said so"), "said so"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_is_quoted_in_its_own_words(error, text):
    assert text_of(error).startswith(text)
