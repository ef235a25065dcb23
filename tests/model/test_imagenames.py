"""Names of images in all the forms that pods have of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.model import imagenames
from cri_proxy.model.imagenames import ImageName

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("flox/empty:1.0.0", "docker.io/flox/empty:1.0.0"),
        ("docker.io/flox/empty:1.0.0", "docker.io/flox/empty:1.0.0"),
        ("index.docker.io/flox/empty:1.0.0", "docker.io/flox/empty:1.0.0"),
        ("busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("a.example/x", "a.example/x:latest"),
        ("a.example:5000/x/y_z:V1", "a.example:5000/x/y_z:V1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        (f"flox/empty@{DIGEST}", f"docker.io/flox/empty@{DIGEST}"),
        (f"flox/empty:1.0.0@{DIGEST}", f"docker.io/flox/empty:1.0.0@{DIGEST}"),
    ],
)
def test_a_name_is_completed_as_the_runtime_completes_it(text: str, full: str) -> None:
    assert str(imagenames.parse(text)) == full


@pytest.mark.parametrize(
    "text",
    ["", ":1", "/x", "x/", "X", "a//b", "x:", "x:-1", "x@", "x@sha256:1", "a b", "x:1:2", "é"],
)
def test_what_is_no_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(errors.RequestInvalid, match=r"flox/empty:1\.0\.0"):
        imagenames.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused_and_a_name_writes_itself(text: str) -> None:
    try:
        name = imagenames.parse(text)
    except errors.RequestInvalid:
        return
    assert imagenames.parse(str(name)) == name


def test_tag_and_digest_are_told_apart_from_the_repository() -> None:
    name = imagenames.parse(f"flox/empty:1.0.0@{DIGEST}")

    assert name == ImageName("docker.io/flox/empty", "1.0.0", DIGEST)
