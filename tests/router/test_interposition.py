"""The interposer's side: connecting, losing and leaving it, and calls that have ended."""

from __future__ import annotations

import hpack
import pytest

from cri_proxy.router import frames, interposition
from hack.testbed.http2 import ANSWER, INTERPOSED, OTHER, TRAILERS, Triangle, request_of


def test_interposer_is_not_connected_to_before_a_call_needs_it(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    assert not triangle.core.has_interposer

    triangle.ask(3, INTERPOSED)
    assert triangle.core.has_interposer


def test_interposer_that_leaves_finishes_its_calls_and_gets_no_more(triangle: Triangle) -> None:
    triangle.ask(1, INTERPOSED)
    triangle.ask(3, INTERPOSED)
    assert triangle.interposer is not None
    triangle.core.receive_interposer(frames.goaway(1, frames.NO_ERROR))
    triangle.settle()
    triangle.ask(5, INTERPOSED)

    for stream in 3, 5:
        fields = dict(triangle.kubelet.streams[stream].headers[0])
        assert fields[b"grpc-status"] == b"14"
        assert fields[b"grpc-message"] == b"cri-proxy: the interposer is stopping"
    triangle.interposer.h2.send_headers(1, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.settle()
    assert triangle.kubelet.streams[1].is_ended
    assert 5 not in triangle.interposer.streams


def test_call_that_lost_the_interposer_amid_its_response_gets_a_status_only(
    triangle: Triangle,
) -> None:
    triangle.ask(1, INTERPOSED)
    assert triangle.interposer is not None
    triangle.interposer.h2.send_headers(1, ANSWER)
    triangle.interposer.h2.send_data(1, b"half")
    triangle.settle()
    triangle.lose_interposer("gone")
    triangle.settle()

    stream = triangle.kubelet.streams[1]
    assert bytes(stream.data) == b"half"
    assert [dict(fields).get(b":status") for fields in stream.headers] == [b"200", None]
    assert dict(stream.headers[1])[b"grpc-status"] == b"14"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frames.build(frames.CONTINUATION, 0, 1), b"unexpected CONTINUATION frame"),
        (frames.build(frames.PUSH_PROMISE, 0, 1), b"unexpected PUSH_PROMISE frame"),
        (frames.build(frames.DATA, 0, 0, b"x"), b"DATA frame on stream 0"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", b"frame exceeds MAX_FRAME_SIZE"),
    ],
)
def test_interposer_that_breaks_the_protocol_loses_its_calls_only(
    triangle: Triangle, frame: bytes, reason: bytes
) -> None:
    triangle.ask(1, INTERPOSED)
    triangle.core.receive_interposer(frame)
    triangle.interposer = None
    triangle.settle()

    fields = dict(triangle.kubelet.streams[1].headers[0])
    assert fields[b"grpc-message"] == b"cri-proxy: the interposer broke the protocol: " + reason
    assert not triangle.core.is_over
    triangle.ask(3, OTHER)
    assert triangle.runtime.streams[3].is_ended


def test_streams_that_ended_are_remembered_up_to_a_bound(triangle: Triangle) -> None:
    subject = triangle.core._interposition
    for stream in range(interposition.REMEMBERED + 1):
        subject.mark_closed(stream)

    assert not subject.is_closed(0)
    assert subject.is_closed(1)
    assert subject.is_closed(interposition.REMEMBERED)


def test_block_of_a_call_that_is_gone_still_updates_the_table(triangle: Triangle) -> None:
    """The interposer may use its header table until it has seen our SETTINGS."""
    triangle.kubelet.h2.send_headers(1, request_of(INTERPOSED))
    triangle.kubelet.h2.send_headers(3, request_of(INTERPOSED))
    triangle.settle()
    triangle.kubelet.h2.reset_stream(1, frames.CANCEL)
    triangle.settle()
    encoder = hpack.Encoder()
    for stream in 1, 3:
        block = encoder.encode([*ANSWER, ("x-kept", "in the table")])
        triangle.core.receive_interposer(frames.headers(stream, block))
    triangle.settle()

    assert dict(triangle.kubelet.streams[3].headers[0])[b"x-kept"] == b"in the table"
