"""Kubelet's frames: forwarded, interposed, answered or refused."""

from __future__ import annotations

from cri_proxy.router import frames
from cri_proxy.router.connection import Side
from cri_proxy.router.downstream import DRAIN_PING
from hack.testbed.http2 import ANSWER, ENDLESS, INTERPOSED, OTHER, TRAILERS, Triangle, request_of


def test_settled_connection_forwards_bytes_unchanged(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    triangle.kubelet.h2.send_headers(3, request_of(OTHER, ("x-bin", "\x00\xff")))
    triangle.kubelet.h2.send_data(3, b"abc", pad_length=7, end_stream=True)
    sent = triangle.kubelet.h2.data_to_send()

    triangle.core.receive_downstream(sent + b"\x00\x00\x02\xfa\x07\x00\x00\x00\x03hi")

    assert b"".join(triangle.core.to_upstream) == sent + (b"\x00\x00\x02\xfa\x07\x00\x00\x00\x03hi")


def test_ping_that_the_interposer_provoked_does_not_reach_the_runtime(
    triangle: Triangle,
) -> None:
    """A server in Go closes connections on which pings arrive although it has sent nothing."""
    triangle.ask(1, INTERPOSED)
    assert triangle.interposer is not None
    triangle.interposer.h2.send_headers(1, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.settle()
    triangle.kubelet.h2.ping(b"provoked")
    triangle.settle()

    assert triangle.kubelet.pongs == [b"provoked"]
    assert triangle.runtime.pings == []


def test_late_data_of_an_interposed_call_is_dropped_and_credited(triangle: Triangle) -> None:
    triangle.kubelet.h2.send_headers(1, request_of(INTERPOSED))
    triangle.settle()
    assert triangle.interposer is not None
    triangle.interposer.h2.reset_stream(1, 0)
    triangle.kubelet.h2.send_data(1, bytes(10_000))
    triangle.settle()

    assert not triangle.runtime.streams
    assert triangle.kubelet.h2.outbound_flow_control_window == 65_535


def test_drain_waits_for_calls_but_not_for_endless_ones(triangle: Triangle) -> None:
    triangle.ask(1, ENDLESS)
    triangle.ask(3, OTHER)
    triangle.ask(5, INTERPOSED)
    assert triangle.interposer is not None
    triangle.core.drain()
    triangle.gather()
    out = bytes(triangle.pipes[Side.DOWNSTREAM, False])
    triangle.core.receive_downstream(frames.build(frames.PING, frames.ACK, 0, DRAIN_PING))

    assert frames.goaway(frames.LARGEST_STREAM, 0) in out
    assert frames.goaway(5, 0) in b"".join(triangle.core.to_downstream)
    triangle.runtime.h2.send_headers(3, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.core.receive_upstream(triangle.runtime.h2.data_to_send())
    assert not triangle.core.is_over
    triangle.interposer.h2.send_headers(5, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.core.receive_interposer(triangle.interposer.h2.data_to_send())
    assert triangle.core.is_over


def test_call_that_crosses_the_final_goaway_is_dropped(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    triangle.core.drain()
    triangle.core.receive_downstream(frames.build(frames.PING, frames.ACK, 0, DRAIN_PING))
    triangle.kubelet.h2.send_headers(3, request_of(INTERPOSED))
    triangle.kubelet.h2.send_headers(5, request_of(OTHER))

    triangle.core.receive_downstream(triangle.kubelet.h2.data_to_send())

    assert triangle.interposer is None
    assert not triangle.core.wants_interposer
    assert triangle.core.to_upstream == []


def test_ten_thousand_streams_are_open_at_once(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    block = frames.build(frames.HEADERS, 4, 0, b"\x82\x86\x44\x02/a")
    triangle.core.receive_downstream(
        b"".join(
            block[:5] + stream.to_bytes(4, "big") + block[9:] for stream in range(3, 20_003, 2)
        )
    )

    assert not triangle.core.is_over
    assert "10001 upstream" in repr(triangle.core)


def test_frame_that_is_too_long_ends_the_connection_behind_what_came_before_it(
    triangle: Triangle,
) -> None:
    """Its header suffices; the payload is not waited for."""
    ping = frames.build(frames.PING, 0, 0, b"kubelet!")

    triangle.core.receive_downstream(ping + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")

    assert triangle.core.to_upstream == [ping]
    assert triangle.core.is_over
    assert triangle.core.reason == "frame exceeds MAX_FRAME_SIZE"
