"""Flow control of interposed requests: what is sent, queued and granted."""

from __future__ import annotations

from cri_proxy.router import frames, requestflow
from cri_proxy.router.requestflow import RequestFlow

WINDOW = frames.INITIAL_WINDOW_BYTES
FRAME = frames.INITIAL_FRAME_BYTES


def test_data_within_the_interposers_windows_is_sent_at_once() -> None:
    out: list[bytes] = []
    flow = RequestFlow(out)
    call = flow.open(1, granted=WINDOW, response_room=WINDOW)

    flow.data(call, frames.END_STREAM, b"abc")

    assert out == [frames.build(frames.DATA, frames.END_STREAM, 1, b"abc")]
    assert flow.owed == 3
    assert flow.pay() == 3


def test_data_beyond_the_interposers_windows_waits_for_its_grants_in_order() -> None:
    out: list[bytes] = []
    flow = RequestFlow(out)
    call = flow.open(1, granted=1 << 20, response_room=WINDOW)
    for _ in range(5):
        flow.data(call, 0, bytes(FRAME))
    flow.trailers(call, b"trailers")
    assert call.queued_bytes == flow.queued_bytes == 5 * FRAME - WINDOW

    flow.grant_stream(call, 2 * FRAME)
    assert b"trailers" not in out
    assert flow.grant(2 * FRAME) == (call,)

    assert out[-1] == b"trailers"
    assert not flow.queued_bytes


def test_downstream_is_granted_what_the_interposer_accepts_beyond_its_window() -> None:
    flow = RequestFlow([])
    call = flow.open(1, granted=100, response_room=WINDOW)
    assert [flow.surplus(call), flow.surplus(call)] == [WINDOW - 100, 0]

    flow.resize(WINDOW + 7)
    assert flow.surplus(call) == 7
    flow.change_granted(-5)
    assert flow.surplus(call) == 5


def test_connection_window_is_not_replenished_while_too_much_is_queued() -> None:
    flow = RequestFlow([])
    call = flow.open(1, granted=1 << 30, response_room=WINDOW)
    size = requestflow.QUEUED_BYTES + WINDOW + 1
    flow.data(call, 0, bytes(size))
    assert flow.pay() == 0

    flow.discard(call)
    assert flow.pay() == size


def test_call_is_over_when_both_directions_ended_and_nothing_is_queued() -> None:
    flow = RequestFlow([])
    call = flow.open(1, granted=WINDOW, response_room=0)
    call.is_request_ended = call.is_response_ended = True
    assert call.is_over

    call.response.put(frames.build(frames.DATA, frames.END_STREAM, 1, b"x"), 1)
    assert not call.is_over
    flow.end(call)
    assert not flow.calls
