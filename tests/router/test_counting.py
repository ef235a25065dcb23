"""Counting: the method and status of a call, read from its frames without decoding headers."""

from __future__ import annotations

from collections import Counter

import hpack
import pytest

from cri_proxy.router import counting, frames, headers
from cri_proxy.router.connection import Connection
from hack.testbed.http2 import ANSWER, INTERPOSED, MATCHER, OTHER, request_of

STREAM = 1


def block(fields: list[tuple[str, str]], *, is_huffman: bool = True) -> bytes:
    """Return a header block that stands alone."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields, huffman=is_huffman)


def table() -> counting.Table:
    return counting.Table([OTHER], lambda *_: None)


@pytest.mark.parametrize("is_huffman", [True, False])
def test_method_is_found_in_both_encodings(is_huffman: bool) -> None:
    request = block(request_of(OTHER, ("grpc-timeout", "2S")), is_huffman=is_huffman)

    assert table().method_of(request) == OTHER[1:]


@pytest.mark.parametrize("first", [0x00, 0x10, 0x40])
@pytest.mark.parametrize("name", list(headers.literals(b":path")))
def test_method_is_found_when_the_block_brings_its_name(first: int, name: bytes) -> None:
    """As gRPC's C core has it, authority and all."""
    authority = bytes([first, 10]) + b":authority" + b"\x09localhost"
    path = bytes([first]) + name + bytes([len(OTHER)]) + OTHER.encode()

    for request in (b"\x20" + path + authority + b"\x83\x86", b"\x83\x86" + authority + path):
        assert table().method_of(request) == OTHER[1:]
        assert MATCHER.rules_out(request)


def test_method_is_found_behind_other_pseudo_headers() -> None:
    method, scheme, path, authority, *others = request_of(OTHER)

    for order in ([path, method, scheme, authority], [authority, scheme, method, path]):
        assert table().method_of(block([*order, *others])) == OTHER[1:]


@pytest.mark.parametrize("path", ["/a.B/C", OTHER + "2", "/" + "x" * 300, ""])
def test_method_that_is_not_in_the_table_has_no_name(path: str) -> None:
    assert table().method_of(block(request_of(path))) == counting.OTHER


def test_method_that_only_another_header_names_is_not_counted_as_such() -> None:
    request = block(request_of("/a.B/C", ("x-path", OTHER)))

    assert table().method_of(request) == counting.OTHER


@pytest.mark.parametrize("is_huffman", [True, False])
@pytest.mark.parametrize("number", range(17))
def test_status_is_found_in_both_encodings(number: int, is_huffman: bool) -> None:
    trailers = block(
        [("x-before", "1"), ("grpc-status", str(number)), ("grpc-message", "so")],
        is_huffman=is_huffman,
    )

    assert table().status_of(trailers) == counting.STATUSES[number]


@pytest.mark.parametrize("fields", [[], [("grpc-status", "99")], [("x", "grpc")]])
def test_status_that_is_none_is_unknown(fields: list[tuple[str, str]]) -> None:
    assert table().status_of(block(fields)) == counting.UNKNOWN


@pytest.mark.parametrize("size", range(60))
def test_block_that_is_cut_anywhere_is_no_error(size: int) -> None:
    assert table().method_of(block(request_of(OTHER))[:size])
    assert table().status_of(block([("grpc-status", "0")])[:size])


class Opened:
    """A connection with one call in flight, and what was counted."""

    def __init__(self, path: str = OTHER) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()
        found = counting.Table([OTHER], lambda *call: self.counted.update([call]))
        self.core = Connection(MATCHER, found)
        self.core.receive_downstream(frames.PREFACE + frames.build(frames.SETTINGS, 0, 0))
        self.core.receive_upstream(frames.build(frames.SETTINGS, 0, 0))
        request = frames.headers(STREAM, block(request_of(path)), flags=frames.END_STREAM)
        self.core.receive_downstream(request)


def test_call_is_counted_once_when_its_answer_ends() -> None:
    opened = Opened()
    opened.core.receive_upstream(frames.headers(STREAM, block(ANSWER)))
    assert not opened.counted

    trailers = frames.headers(STREAM, block([("grpc-status", "5")]), flags=frames.END_STREAM)
    opened.core.receive_upstream(trailers)
    opened.core.receive_upstream(frames.rst_stream(STREAM, frames.NO_ERROR))
    opened.core.upstream_lost()

    assert opened.counted == {(OTHER[1:], "NOT_FOUND"): 1}


def test_call_is_counted_however_it_ends() -> None:
    given_up, reset, lost, left = (Opened() for _ in range(4))
    given_up.core.receive_downstream(frames.rst_stream(STREAM, frames.CANCEL))
    reset.core.receive_upstream(frames.rst_stream(STREAM, frames.REFUSED_STREAM))
    lost.core.upstream_lost()
    left.core.downstream_lost()

    assert list(given_up.counted) == [(OTHER[1:], "CANCELLED")]
    assert list(reset.counted) == [(OTHER[1:], "UNAVAILABLE")]
    assert list(lost.counted) == [(OTHER[1:], "UNAVAILABLE")]
    assert list(left.counted) == [(OTHER[1:], "CANCELLED")]


def test_lent_call_is_left_to_the_interposer() -> None:
    opened = Opened(INTERPOSED)
    opened.core.downstream_lost()

    assert not opened.counted
