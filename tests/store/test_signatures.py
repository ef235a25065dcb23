"""Signatures that make a path trusted, and those that do not."""

import base64
import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import signatures
from cri_proxy.store.narinfo import NarInfo
from cri_proxy.store.signatures import Keyring

HELLO = StorePath("jr185iw0pc2g99b9ldw9pzz532vl6flh", "hello-2.12")
GLIBC = StorePath("4i6h740al0294ap8fabvimrlxa3fzssf", "glibc-2.38")
KEY = signatures.generate("cache-1")
UNSIGNED = NarInfo(
    path=HELLO,
    url="nar/x.nar",
    compression="none",
    file_hash=None,
    file_size=None,
    nar_hash=hashlib.sha256(b"contents").digest(),
    nar_size=1208,
    references=(GLIBC, HELLO),
    deriver=None,
    signatures=(),
    ca=None,
)


def signed_by(*keys, info=UNSIGNED):
    return dataclasses.replace(info, signatures=tuple(signatures.sign(info, key) for key in keys))


def refusal(keyring, info):
    with pytest.raises(errors.SignatureUntrusted) as caught:
        keyring.verify(info)
    return str(caught.value)


def test_path_signed_by_a_trusted_key_is_trusted():
    other = signatures.generate("other-1")

    assert Keyring([other.public, KEY.public]).verify(signed_by(KEY)) == "cache-1"


def test_one_trusted_signature_among_others_is_enough():
    info = signed_by(signatures.generate("other-1"), KEY)

    assert Keyring([KEY.public]).verify(info) == "cache-1"


def test_keys_of_one_name_are_all_tried():
    """While a key is replaced, both the old and the new one are trusted."""
    new = signatures.generate("cache-1")
    keyring = Keyring([KEY.public, new.public])

    assert keyring.verify(signed_by(KEY)) == keyring.verify(signed_by(new)) == "cache-1"


@pytest.mark.parametrize(
    "change",
    [
        {"path": GLIBC},
        {"nar_hash": bytes(32)},
        {"nar_size": 1209},
        {"references": (HELLO,)},
        {"references": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_signature_of_another_content_is_refused(change):
    info = dataclasses.replace(signed_by(KEY), **change)

    assert "a signature by cache-1 that does not verify" in refusal(Keyring([KEY.public]), info)


def test_what_is_not_signed_may_change():
    """A mirror may recompress the archive and drop or add the other fields."""
    info = dataclasses.replace(
        signed_by(KEY), url="x", compression="xz", file_size=3, deriver=None, ca="text:x"
    )

    assert Keyring([KEY.public]).verify(info) == "cache-1"


def test_refusal_names_path_signers_and_trusted_keys():
    keyring = Keyring([KEY.public, signatures.generate("cache-0").public])

    message = refusal(keyring, signed_by(signatures.generate("other-1")))
    assert message == (
        f"{HELLO} is signed by other-1, and the trusted keys are cache-0, cache-1: "
        "trust a key that signs it, or sign the path"
    )


def test_unsigned_path_is_refused_even_if_it_is_content_addressed():
    info = dataclasses.replace(UNSIGNED, ca="fixed:r:sha256:x")

    assert "is signed by no key" in refusal(Keyring([KEY.public]), info)


def test_nothing_is_trusted_without_keys():
    assert "the trusted keys are none" in refusal(Keyring([]), signed_by(KEY))


def test_key_of_the_same_name_is_another_key():
    assert "does not verify" in refusal(
        Keyring([signatures.generate("cache-1").public]), signed_by(KEY)
    )


@pytest.mark.parametrize(
    "signature",
    [
        *("", ":", "cache-1", "cache-1:", "cache-1:!", "cache-1:c2hvcnQ=", "cache-1:\xe4"),
        *(f"cache-1:{base64.b64encode(bytes(64)).decode()}", "\x1b[31m:x"),
    ],
)
def test_text_that_is_no_signature_is_skipped(signature):
    info = dataclasses.replace(UNSIGNED, signatures=(signature,))
    assert refusal(Keyring([KEY.public]), info).isprintable()

    info = dataclasses.replace(UNSIGNED, signatures=(signature, *signed_by(KEY).signatures))
    assert Keyring([KEY.public]).verify(info) == "cache-1"


def test_keys_are_read_as_they_are_written():
    assert signatures.parse_public(str(KEY.public)) == KEY.public
    assert signatures.parse_secret(KEY.text) == KEY
    assert signatures.parse_secret(KEY.text + "\n") == KEY


def test_name_of_a_key_may_hold_anything_but_a_colon():
    text = "cache.flox.dev-1 (old)" + str(KEY.public)[len("cache-1") :]

    assert signatures.parse_public(text).name == "cache.flox.dev-1 (old)"


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "cache-1", "cache-1:", "cache-1:AAAA", "cache-1:" + "!" * 44, "ä:ä"),
        f":{base64.b64encode(bytes(32)).decode()}",
        f"cache-1:{base64.b64encode(bytes(33)).decode()}",
    ],
)
def test_text_that_is_no_public_key_is_refused(text):
    with pytest.raises(errors.RequestInvalid, match="not a public key"):
        signatures.parse_public(text)


def test_secret_key_whose_halves_do_not_belong_together_is_refused():
    data = KEY.seed + signatures.generate("x").public.data
    text = f"cache-1:{base64.b64encode(data).decode()}"

    with pytest.raises(errors.RequestInvalid) as caught:
        signatures.parse_secret(text)
    assert text[8:40] not in str(caught.value)


def test_secret_is_not_shown():
    encoded = KEY.text.partition(":")[2]

    assert encoded[:16] not in f"{KEY} {KEY!r}"
    assert repr(KEY.seed) not in f"{KEY} {KEY!r}"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=120), max_size=4).map(tuple))
def test_arbitrary_signatures_are_not_trusted(texts):
    with pytest.raises(errors.SignatureUntrusted):
        Keyring([KEY.public]).verify(dataclasses.replace(UNSIGNED, signatures=texts))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 511))
def test_signature_with_any_bit_turned_is_not_trusted(bit):
    name, _, encoded = signed_by(KEY).signatures[0].partition(":")
    data = bytearray(base64.b64decode(encoded))
    data[bit // 8] ^= 1 << bit % 8
    forged = f"{name}:{base64.b64encode(data).decode()}"

    refusal(Keyring([KEY.public]), dataclasses.replace(UNSIGNED, signatures=(forged,)))
