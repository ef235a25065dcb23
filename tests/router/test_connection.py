"""What the core does with whole exchanges, told by three h2 peers."""

from __future__ import annotations

import random

import pytest

from cri_proxy.router import frames
from cri_proxy.router.connection import DRAIN_PING, Side
from hack.testbed import hostile
from hack.testbed.http2 import ANSWER, ENDLESS, INTERPOSED, OTHER, TRAILERS, Triangle, request_of


@pytest.fixture
def triangle() -> Triangle:
    """Three peers that have exchanged their SETTINGS."""
    made = Triangle()
    made.settle()
    return made


def ask(triangle: Triangle, stream: int, path: str, *more: tuple[str, str]) -> None:
    triangle.kubelet.h2.send_headers(stream, request_of(path, *more))
    triangle.kubelet.h2.send_data(stream, b"question", end_stream=True)
    triangle.settle()


def test_call_goes_to_the_runtime_and_only_there(triangle: Triangle) -> None:
    ask(triangle, 1, OTHER)

    assert triangle.runtime.streams[1].data == b"question"
    assert triangle.interposer is None


def test_interposed_call_goes_to_the_interposer_and_only_there(triangle: Triangle) -> None:
    ask(triangle, 1, INTERPOSED)

    assert triangle.interposer is not None
    assert triangle.interposer.streams[1].data == b"question"
    assert not triangle.runtime.streams


def test_settled_connection_forwards_the_very_bytes(triangle: Triangle) -> None:
    ask(triangle, 1, OTHER)
    triangle.kubelet.h2.send_headers(3, request_of(OTHER, ("x-bin", "\x00\xff")))
    triangle.kubelet.h2.send_data(3, b"abc", pad_length=7, end_stream=True)
    sent = triangle.kubelet.h2.data_to_send()

    triangle.core.receive_downstream(sent + b"\x00\x00\x02\xfa\x07\x00\x00\x00\x03hi")

    assert b"".join(triangle.core.to_upstream) == sent + (b"\x00\x00\x02\xfa\x07\x00\x00\x00\x03hi")


def test_everybody_is_told_a_table_size_of_zero(triangle: Triangle) -> None:
    ask(triangle, 1, INTERPOSED)

    assert triangle.interposer is not None
    for peer in triangle.kubelet, triangle.runtime, triangle.interposer:
        assert peer.h2.remote_settings.header_table_size == 0


def test_metadata_of_64_kib_passes_both_ways(triangle: Triangle) -> None:
    long = "x" * 65_000
    for stream, path in (1, OTHER), (3, INTERPOSED), (5, OTHER):
        ask(triangle, stream, path, ("x-long", long))
        server = triangle.interposer if path == INTERPOSED else triangle.runtime
        assert server is not None
        server.h2.send_headers(stream, [*ANSWER, ("x-long", long)])
        server.h2.send_headers(stream, [*TRAILERS, ("x-long", long)], end_stream=True)
        triangle.settle()

        assert server.streams[stream].headers[0][-1] == (b"x-long", long.encode())
        for fields in triangle.kubelet.streams[stream].headers:
            assert fields[-1] == (b"x-long", long.encode())


def test_pings_and_their_payloads_pass(triangle: Triangle) -> None:
    triangle.kubelet.h2.ping(b"kubelet!")
    triangle.runtime.h2.ping(b"runtime!")
    triangle.settle()

    assert triangle.runtime.pings == [b"kubelet!"]
    assert triangle.kubelet.pings == [b"runtime!"]
    assert triangle.kubelet.pongs == [b"kubelet!"]
    assert triangle.runtime.pongs == [b"runtime!"]


def test_ping_that_the_interposer_provoked_does_not_bother_the_runtime(
    triangle: Triangle,
) -> None:
    """A runtime in Go closes connections for pings between which it has sent nothing."""
    ask(triangle, 1, INTERPOSED)
    assert triangle.interposer is not None
    triangle.interposer.h2.send_headers(1, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.settle()
    triangle.kubelet.h2.ping(b"provoked")
    triangle.settle()

    assert triangle.kubelet.pongs == [b"provoked"]
    assert triangle.runtime.pings == []


@pytest.mark.parametrize("path", [OTHER, INTERPOSED])
@pytest.mark.parametrize("code", [0, 2, 7, 8, 0xB])
def test_reset_codes_pass_both_ways(triangle: Triangle, path: str, code: int) -> None:
    for stream in 1, 3:
        triangle.kubelet.h2.send_headers(stream, request_of(path))
    triangle.settle()
    server = triangle.interposer if path == INTERPOSED else triangle.runtime
    assert server is not None

    triangle.kubelet.h2.reset_stream(1, code)
    server.h2.reset_stream(3, code)
    triangle.settle()

    assert server.streams[1].reset == code
    assert triangle.kubelet.streams[3].reset == code


def test_late_data_on_a_lent_stream_reaches_nobody_and_is_credited(triangle: Triangle) -> None:
    triangle.kubelet.h2.send_headers(1, request_of(INTERPOSED))
    triangle.settle()
    assert triangle.interposer is not None
    triangle.interposer.h2.reset_stream(1, 0)
    triangle.kubelet.h2.send_data(1, bytes(10_000))
    triangle.settle()

    assert not triangle.runtime.streams
    assert triangle.kubelet.h2.outbound_flow_control_window == 65_535


def test_answer_of_16_mib_from_the_interposer_while_the_runtime_streams(
    triangle: Triangle,
) -> None:
    size = 16 << 20
    triangle.kubelet.h2.send_headers(1, request_of(ENDLESS), end_stream=True)
    ask(triangle, 3, INTERPOSED)
    assert triangle.interposer is not None
    triangle.interposer.h2.send_headers(3, ANSWER)
    triangle.runtime.h2.send_headers(1, ANSWER)
    left = {1: bytearray(size), 3: bytearray(size)}
    while any(left.values()):
        for stream, peer in (1, triangle.runtime), (3, triangle.interposer):
            del left[stream][: peer.send(stream, bytes(left[stream][:100_000]))]
        triangle.settle()
        triangle.kubelet.acknowledge()
    triangle.settle()

    assert [len(triangle.kubelet.streams[each].data) for each in (1, 3)] == [size, size]


def test_reader_that_stops_stops_those_who_write_to_it(triangle: Triangle) -> None:
    triangle.core.pause(Side.DOWNSTREAM)

    assert not triangle.core.may_read(Side.UPSTREAM)
    assert not triangle.core.may_read(Side.INTERPOSER)
    assert triangle.core.may_read(Side.DOWNSTREAM)

    triangle.core.resume(Side.DOWNSTREAM)
    triangle.core.pause(Side.UPSTREAM)

    assert triangle.core.may_read(Side.UPSTREAM)
    assert not triangle.core.may_read(Side.DOWNSTREAM)


def test_lost_interposer_is_unavailable_and_others_do_not_notice(triangle: Triangle) -> None:
    ask(triangle, 1, OTHER)
    ask(triangle, 3, INTERPOSED)

    triangle.lose_interposer("gone for good")
    triangle.runtime.h2.send_headers(1, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.settle()

    fields = dict(triangle.kubelet.streams[3].headers[0])
    assert fields[b"grpc-status"] == b"14"
    assert fields[b"grpc-message"] == b"cri-proxy: gone for good"
    assert triangle.kubelet.streams[1].is_ended
    ask(triangle, 5, INTERPOSED)
    assert triangle.interposer is not None
    assert triangle.interposer.streams[5].is_ended


def test_goaway_of_the_runtimes_does_not_disown_a_lent_call(triangle: Triangle) -> None:
    """Kubelet would repeat a call of which a GOAWAY says that it was never looked at."""
    ask(triangle, 1, OTHER)
    ask(triangle, 3, OTHER)
    ask(triangle, 5, INTERPOSED)
    goaway = frames.goaway(1, frames.NO_ERROR)

    triangle.core.receive_upstream(goaway)
    triangle.settle()

    assert triangle.kubelet.goaways == [(5, 0)]
    assert triangle.kubelet.streams[3].reset == frames.REFUSED_STREAM


def test_drain_waits_for_calls_but_not_for_endless_ones(triangle: Triangle) -> None:
    ask(triangle, 1, ENDLESS)
    ask(triangle, 3, OTHER)
    ask(triangle, 5, INTERPOSED)
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


def test_call_that_crosses_the_last_goaway_is_looked_at_by_nobody(triangle: Triangle) -> None:
    ask(triangle, 1, OTHER)
    triangle.core.drain()
    triangle.core.receive_downstream(frames.build(frames.PING, frames.ACK, 0, DRAIN_PING))
    triangle.kubelet.h2.send_headers(3, request_of(INTERPOSED))
    triangle.kubelet.h2.send_headers(5, request_of(OTHER))

    triangle.core.receive_downstream(triangle.kubelet.h2.data_to_send())

    assert triangle.interposer is None
    assert not triangle.core.wants_interposer
    assert triangle.core.to_upstream == []


def test_ten_thousand_streams_are_open_at_once(triangle: Triangle) -> None:
    ask(triangle, 1, OTHER)
    block = frames.build(frames.HEADERS, 4, 0, b"\x82\x86\x44\x02/a")
    triangle.core.receive_downstream(
        b"".join(
            block[:5] + stream.to_bytes(4, "big") + block[9:] for stream in range(3, 20_003, 2)
        )
    )

    assert not triangle.core.is_over
    assert "10001 upstream" in repr(triangle.core)


def test_hostile_connections_do_not_break_the_core() -> None:
    for seed in range(1_500):
        hostile.connection(random.Random(seed))
