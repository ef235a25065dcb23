"""Nix's base 32, against values that Nix printed and against itself."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy.lib import nixbase32


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\x00", "00"),
        (b"\xff", "7z"),
        (b"\x1f", "0z"),
        (bytes(20), "0" * 32),
        (
            hashlib.sha256(b"").digest(),
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        ),
        (
            hashlib.sha256(b"abc").digest(),
            "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        ),
    ],
)
def test_bytes_are_written_as_nix_writes_them(data, text):
    assert nixbase32.encode(data) == text
    assert nixbase32.decode(text) == data


@pytest.mark.parametrize("letter", [*"eotu", "A", "-", " ", "\n", "é", "\u0661", "="])
def test_letter_outside_the_alphabet_is_refused(letter):
    with pytest.raises(ValueError, match="not a letter"):
        nixbase32.decode("0" * 31 + letter)


@pytest.mark.parametrize("length", [1, 3, 6, 9, 33])
def test_length_of_no_whole_number_of_bytes_is_refused(length):
    with pytest.raises(ValueError, match="not a whole number of bytes"):
        nixbase32.decode("0" * length)


def test_padding_bits_must_be_zero():
    with pytest.raises(ValueError, match="padding"):
        nixbase32.decode("zz")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_what_is_written_is_read_back(data):
    assert nixbase32.decode(nixbase32.encode(data)) == data


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(nixbase32.ALPHABET, max_size=60))
def test_each_text_is_refused_or_the_only_one_for_its_bytes(text):
    try:
        data = nixbase32.decode(text)
    except ValueError:
        return

    assert nixbase32.encode(data) == text
