"""The runtime's frames on their way to kubelet."""

from __future__ import annotations

from cri_proxy.router import frames
from hack.testbed.http2 import INTERPOSED, OTHER, Triangle


def test_goaway_of_the_runtime_does_not_exclude_an_interposed_call(triangle: Triangle) -> None:
    """Kubelet repeats a call that a GOAWAY declares unprocessed."""
    triangle.ask(1, OTHER)
    triangle.ask(3, OTHER)
    triangle.ask(5, INTERPOSED)
    goaway = frames.goaway(1, frames.NO_ERROR)

    triangle.core.receive_upstream(goaway)
    triangle.settle()

    assert triangle.kubelet.goaways == [(5, 0)]
    assert triangle.kubelet.streams[3].reset == frames.REFUSED_STREAM


def test_settled_connection_forwards_the_received_object_itself(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    triangle.runtime.h2.send_headers(1, [(":status", "200")])
    triangle.settle()
    triangle.runtime.h2.send_data(1, b"answer")
    triangle.runtime.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    sent = triangle.runtime.h2.data_to_send()

    triangle.core.receive_upstream(sent)

    assert len(triangle.core.to_downstream) == 1
    assert triangle.core.to_downstream[0] is sent


def test_frame_that_is_too_long_is_reported_as_a_fault_of_the_runtime(triangle: Triangle) -> None:
    """Kubelet has done nothing wrong; what came before the frame still reaches it."""
    ping = frames.build(frames.PING, 0, 0, b"runtime!")

    triangle.core.receive_upstream(ping + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")

    reason = "the runtime broke the protocol: frame exceeds MAX_FRAME_SIZE"
    assert triangle.core.to_downstream == [ping, frames.goaway(0, frames.INTERNAL_ERROR, reason)]
    assert triangle.core.is_over


def test_reset_without_a_code_ends_the_connection(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)

    triangle.core.receive_upstream(frames.build(frames.RST_STREAM, 0, 1, b"\x00"))

    assert triangle.core.is_over
