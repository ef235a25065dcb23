"""The core with whole exchanges, as three h2 peers see them."""

from __future__ import annotations

import random

import hpack
import pytest

from cri_proxy.router import frames
from cri_proxy.router.connection import Side
from hack.testbed import hostile
from hack.testbed.http2 import ANSWER, ENDLESS, INTERPOSED, OTHER, TRAILERS, Triangle, request_of


def test_call_goes_to_the_runtime_and_only_there(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)

    assert triangle.runtime.streams[1].data == b"question"
    assert triangle.interposer is None


def test_interposed_call_goes_to_the_interposer_and_only_there(triangle: Triangle) -> None:
    triangle.ask(1, INTERPOSED)

    assert triangle.interposer is not None
    assert triangle.interposer.streams[1].data == b"question"
    assert not triangle.runtime.streams


def test_all_peers_are_told_a_table_size_of_zero(triangle: Triangle) -> None:
    triangle.ask(1, INTERPOSED)

    assert triangle.interposer is not None
    for peer in triangle.kubelet, triangle.runtime, triangle.interposer:
        assert peer.h2.remote_settings.header_table_size == 0


def test_client_has_the_table_size_of_the_runtime_until_it_calls(triangle: Triangle) -> None:
    triangle.settle()
    assert triangle.kubelet.h2.remote_settings.header_table_size == 4096
    assert triangle.runtime.acknowledged == 1

    triangle.ask(1, OTHER)

    assert triangle.kubelet.h2.remote_settings.header_table_size == 0
    assert triangle.runtime.acknowledged == 1


@pytest.mark.parametrize("sizes", [b"\x3f\x61", b"\x3f\x61\x3f\xe1\x1f", b"\x21", b"\x20"])
def test_client_may_use_its_table_until_it_acknowledges_another_size(
    triangle: Triangle, sizes: bytes
) -> None:
    """The cases "generic/5" of h2spec: the limit changes only when it is acknowledged."""
    triangle.settle()
    block = sizes + hpack.Encoder().encode(request_of(OTHER))
    triangle.core.receive_downstream(frames.headers(1, block, flags=frames.END_STREAM))
    triangle.settle()

    (fields,) = triangle.runtime.streams[1].headers
    assert dict(fields)[b":path"] == OTHER.encode()


@pytest.mark.parametrize(("is_acknowledged", "size"), [(False, b"\x3f\xe2\x1f"), (True, b"\x21")])
def test_table_beyond_the_limit_ends_the_connection(
    triangle: Triangle, is_acknowledged: bool, size: bytes
) -> None:
    """The case "hpack/6.3" of h2spec, before the client knows of our limit and after."""
    triangle.settle()
    if is_acknowledged:
        triangle.ask(1, OTHER)
    block = size + hpack.Encoder().encode(request_of(OTHER))
    triangle.core.receive_downstream(frames.headers(3, block, flags=frames.END_STREAM))
    triangle.settle()

    assert triangle.core.is_over
    last = 1 if is_acknowledged else 0
    assert triangle.kubelet.goaways == [(last, frames.COMPRESSION_ERROR)]


def test_metadata_of_64_kib_passes_both_ways(triangle: Triangle) -> None:
    long = "x" * 65_000
    for stream, path in (1, OTHER), (3, INTERPOSED), (5, OTHER):
        triangle.ask(stream, path, ("x-long", long))
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


def test_answer_of_16_mib_from_the_interposer_while_the_runtime_streams(
    triangle: Triangle,
) -> None:
    size = 16 << 20
    triangle.kubelet.h2.send_headers(1, request_of(ENDLESS), end_stream=True)
    triangle.ask(3, INTERPOSED)
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


def test_paused_side_pauses_the_sides_that_write_to_it(triangle: Triangle) -> None:
    triangle.core.pause(Side.DOWNSTREAM)

    assert not triangle.core.may_read(Side.UPSTREAM)
    assert not triangle.core.may_read(Side.INTERPOSER)
    assert triangle.core.may_read(Side.DOWNSTREAM)

    triangle.core.resume(Side.DOWNSTREAM)
    triangle.core.pause(Side.UPSTREAM)

    assert triangle.core.may_read(Side.UPSTREAM)
    assert not triangle.core.may_read(Side.DOWNSTREAM)


def test_lost_interposer_makes_its_calls_unavailable_and_no_others(triangle: Triangle) -> None:
    triangle.ask(1, OTHER)
    triangle.ask(3, INTERPOSED)

    triangle.lose_interposer("gone for good")
    triangle.runtime.h2.send_headers(1, [*ANSWER, *TRAILERS], end_stream=True)
    triangle.settle()

    fields = dict(triangle.kubelet.streams[3].headers[0])
    assert fields[b"grpc-status"] == b"14"
    assert fields[b"grpc-message"] == b"cri-proxy: gone for good"
    assert triangle.kubelet.streams[1].is_ended
    triangle.ask(5, INTERPOSED)
    assert triangle.interposer is not None
    assert triangle.interposer.streams[5].is_ended


def test_hostile_connections_do_not_break_the_core() -> None:
    for seed in range(1_500):
        hostile.connection(random.Random(seed))
