"""Which blocks pass raw, and which calls are recognized."""

from __future__ import annotations

import hpack
import hypothesis.strategies as st
import pytest
from hypothesis import given

from cri_proxy.router import frames, headers
from hack.testbed.http2 import INTERPOSED, MATCHER, OTHER, request_of


def encoded(path: str, *more: tuple[str, str], huffman: bool = True) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(request_of(path, *more), huffman=huffman)


@pytest.mark.parametrize("huffman", [True, False])
def test_method_is_recognized_in_both_encodings(huffman: bool) -> None:
    assert MATCHER.kind(encoded(INTERPOSED, huffman=huffman)) == 1
    assert MATCHER.kind(encoded(OTHER, huffman=huffman)) == 0


def test_method_in_another_header_is_not_mistaken_for_the_path() -> None:
    assert MATCHER.kind(encoded(OTHER, ("x-method", INTERPOSED))) == 0


def test_longer_path_is_another_method() -> None:
    assert MATCHER.kind(encoded(INTERPOSED + "s")) == 0


def test_sender_is_stateless_once_it_has_said_so() -> None:
    sender, encoder = headers.HeaderSender(), hpack.Encoder()
    first = encoder.encode(request_of(OTHER))
    second = encoder.encode(request_of(OTHER))
    encoder.header_table_size = 0
    third = encoder.encode(request_of(OTHER))

    for block in first, second:
        again, read = sender.normalized(block)
        assert read is not None
        assert hpack.Decoder().decode(again) == request_of(OTHER)
        assert not sender.is_stateless
    assert sender.normalized(third) == (third, None)
    assert sender.is_stateless


def test_sender_that_takes_up_a_table_again_is_decoded_again() -> None:
    sender, encoder = headers.HeaderSender(), hpack.Encoder()
    encoder.header_table_size = 0
    sender.normalized(encoder.encode(request_of(OTHER)))
    encoder.header_table_size = 4096

    again, _ = sender.normalized(encoder.encode(request_of(INTERPOSED)))

    assert not sender.is_stateless
    assert MATCHER.kind(again) == 1


def test_sender_that_has_agreed_to_no_table_may_not_take_one_up() -> None:
    sender = headers.HeaderSender()
    sender.is_limited = True

    with pytest.raises(frames.Violation) as violation:
        sender.normalized(b"\x3f\xe1\x1f\x82")

    assert violation.value.code == frames.COMPRESSION_ERROR


def test_bomb_is_refused_before_it_expands() -> None:
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 16_000

    with pytest.raises(frames.Violation) as violation:
        headers.HeaderSender().normalized(bomb)

    assert violation.value.code == frames.ENHANCE_YOUR_CALM


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(block: bytes) -> None:
    try:
        headers.HeaderSender().normalized(block)
        MATCHER.kind(block)
    except frames.Violation:
        pass


def test_never_indexed_header_stays_so() -> None:
    secret = hpack.NeverIndexedHeaderTuple(b"authorization", b"token")

    again, _ = headers.HeaderSender().normalized(hpack.Encoder().encode([secret]))

    (decoded,) = hpack.Decoder().decode(again, raw=True)
    assert not decoded.indexable


def test_flood_of_empty_continuations_is_bounded() -> None:
    block = headers.HeaderBlock(0, 1, frames.build(frames.HEADERS, 0, 1, b"\x82"))
    empty = frames.build(frames.CONTINUATION, 0, 1)

    def flood() -> None:
        for _ in range(headers.BLOCK_BYTES):
            block.extend(empty, frames.CONTINUATION, 0, 1)

    with pytest.raises(frames.Violation):
        flood()

    assert block.size <= headers.BLOCK_BYTES + len(empty)
