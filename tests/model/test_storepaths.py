"""What names an object of the store, and what only looks like it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.lib import nixbase32
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath

DIGEST = "jr185iw0pc2g99b9ldw9pzz532vl6flh"


@pytest.mark.parametrize(
    "name", ["hello", "hello-2.12", "a", "+-._?=", ".hidden", "n" * 211, "...", "x.drv"]
)
def test_path_is_read_and_written_back(name):
    path = storepaths.parse(f"/nix/store/{DIGEST}-{name}")

    assert path == StorePath(DIGEST, name)
    assert str(path) == f"/nix/store/{DIGEST}-{name}"
    assert storepaths.of_basename(path.basename) == path


@pytest.mark.parametrize(
    "basename",
    [
        "",
        DIGEST,
        f"{DIGEST}-",
        f"{DIGEST}-.",
        f"{DIGEST}-..",
        f"{DIGEST}-.-x",
        f"{DIGEST}-..-x",
        f"{DIGEST}-{'n' * 212}",
        f"{DIGEST}-a/b",
        f"{DIGEST}-a b",
        f"{DIGEST}-a\n",
        f"{DIGEST}-a\0",
        f"{DIGEST}-ä",
        f"{DIGEST[:-1]}-hello",
        f"{DIGEST}0-hello",
        f"{DIGEST.upper()}-hello",
        f"{DIGEST[:-1]}e-hello",
        f"{DIGEST[:-1]}\u0661-hello",
        "../../etc/passwd",
        ".",
        "..",
    ],
)
def test_name_of_another_form_is_refused(basename):
    for read, text in (
        (storepaths.of_basename, basename),
        (storepaths.parse, f"/nix/store/{basename}"),
    ):
        with pytest.raises(errors.RequestInvalid) as caught:
            read(text)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        f"{DIGEST}-hello",
        f"/nix/store/{DIGEST}-hello/bin",
        f"/nix/store//{DIGEST}-hello",
        f"/nix/store/{DIGEST}-hello/",
        f"/gnu/store/{DIGEST}-hello",
        f"/nix/store/../store/{DIGEST}-hello",
        f" /nix/store/{DIGEST}-hello",
        f"nix/store/{DIGEST}-hello",
        "",
        "x" * 262_144,
    ],
    ids=lambda text: text[:40],
)
def test_path_elsewhere_is_refused(text):
    with pytest.raises(errors.RequestInvalid) as caught:
        storepaths.parse(text)
    assert len(str(caught.value)) < 600


def test_paths_are_in_the_order_of_their_basenames():
    """Signatures list references in this order."""
    paths = [StorePath(DIGEST, "b"), StorePath("0" * 32, "z"), StorePath(DIGEST, "a-1")]

    assert sorted(paths) == sorted(paths, key=lambda path: path.basename)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=20, max_size=20),
    st.text("abcXYZ019+-_?=.", min_size=1, max_size=211).map(lambda name: f"n{name}"[:211]),
)
def test_what_is_written_is_read_back(digest, name):
    path = StorePath(nixbase32.encode(digest), name)

    assert storepaths.parse(str(path)) == path


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(max_size=20).map(lambda name: f"{DIGEST}-{name}"))
def test_arbitrary_text_is_refused_or_one_component_of_a_path(text):
    try:
        path = storepaths.of_basename(text)
    except errors.RequestInvalid:
        return

    assert path.basename == text
    assert "/" not in text
    assert text.isascii()
