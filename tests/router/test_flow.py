"""Flow control, order and content under any interleaving, with a strict peer on every side."""

from __future__ import annotations

import h2.exceptions
import h2.settings
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from cri_proxy.router.connection import Side
from cri_proxy.router.responseflow import INTERPOSER_WINDOW_BYTES
from hack.testbed.http2 import ANSWER, INTERPOSED, OTHER, TRAILERS, Peer, Triangle, request_of

INITIAL_WINDOW = int(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE)
MAX_FRAME = int(h2.settings.SettingCodes.MAX_FRAME_SIZE)

windows = st.sampled_from([0, 1, 100, 16_384, 65_535, 65_536, 1 << 20])
frame_sizes = st.sampled_from([16_384, 20_000, 1 << 18])
sizes = st.sampled_from([0, 1, 99, 5_000, 16_384, 40_000, 65_535, 300_000])
peer_settings = st.fixed_dictionaries({INITIAL_WINDOW: windows, MAX_FRAME: frame_sizes})


class Flow(RuleBasedStateMachine):
    """Peers that send whatever their windows allow, at any time, in any order of arrival."""

    streams = Bundle("streams")

    @initialize(kubelet=peer_settings, runtime=peer_settings, interposer=peer_settings)
    def begin(
        self, kubelet: dict[int, int], runtime: dict[int, int], interposer: dict[int, int]
    ) -> None:
        self.triangle = Triangle(kubelet=kubelet, runtime=runtime, interposer=interposer)
        self.next = 1
        self.paths: dict[int, str] = {}
        self.sent_headers: dict[int, list[tuple[str, str]]] = {}
        self.outstanding: dict[tuple[int, bool], bytearray] = {}
        self.sent: dict[tuple[int, bool], bytearray] = {}
        self.finished: set[tuple[int, bool]] = set()
        self.answered: set[int] = set()
        self.reset: set[int] = set()

    def server(self, stream: int) -> Peer | None:
        is_interposed = self.paths[stream] == INTERPOSED
        peer = self.triangle.interposer if is_interposed else self.triangle.runtime
        return peer if peer is not None and stream in peer.streams else None

    @rule(target=streams, is_interposed=st.booleans(), more=st.sampled_from([0, 0, 10, 20_000]))
    def open(self, is_interposed: bool, more: int) -> int:
        stream, self.next = self.next, self.next + 2
        self.paths[stream] = INTERPOSED if is_interposed else OTHER
        self.sent_headers[stream] = request_of(self.paths[stream], ("x-more", "y" * more))
        self.triangle.kubelet.h2.send_headers(stream, self.sent_headers[stream])
        for is_request in (True, False):
            self.outstanding[stream, is_request] = bytearray()
            self.sent[stream, is_request] = bytearray()
        return stream

    @rule(stream=streams, size=sizes, is_request=st.booleans())
    def say(self, stream: int, size: int, is_request: bool) -> None:
        if (stream, is_request) not in self.finished:
            data = bytes([len(self.sent[stream, is_request]) % 251]) * size
            self.outstanding[stream, is_request] += data
            self.sent[stream, is_request] += data
            self.push(stream, is_request)

    @rule(stream=streams, is_request=st.booleans(), padding=st.sampled_from([0, 1, 255]))
    def say_padded(self, stream: int, is_request: bool, padding: int) -> None:
        key = stream, is_request
        peer = self.triangle.kubelet if is_request else self.server(stream)
        if key in self.finished or self.outstanding[key] or stream in self.reset or not peer:
            return
        if not is_request:
            self.answer(stream, peer)
        if peer.h2.local_flow_control_window(stream) >= padding + 3:
            peer.h2.send_data(stream, b"pad", pad_length=padding)
            self.sent[key] += b"pad"

    @rule(stream=streams, is_request=st.booleans())
    def finish(self, stream: int, is_request: bool) -> None:
        self.finished.add((stream, is_request))
        self.push(stream, is_request)

    @rule(stream=consumes(streams), is_by_kubelet=st.booleans())
    def break_off(self, stream: int, is_by_kubelet: bool) -> None:
        peer = self.triangle.kubelet if is_by_kubelet else self.server(stream)
        if peer is None or stream in self.reset or self.is_done(stream):
            return
        self.reset.add(stream)
        peer.h2.reset_stream(stream)

    @rule(side=st.sampled_from(Side), change=peer_settings)
    def change(self, side: Side, change: dict[int, int]) -> None:
        peer = self.triangle.peer(side)
        if peer is not None:
            peer.h2.update_settings(change)

    @rule(side=st.sampled_from(Side), amount=st.sampled_from([1, 7, 5_000, 1 << 30]))
    def acknowledge(self, side: Side, amount: int) -> None:
        peer = self.triangle.peer(side)
        for stream, ledger in peer.streams.items() if peer else ():
            size = min(ledger.unacknowledged, amount)
            if size and peer:
                ledger.unacknowledged -= size
                peer.grant(stream, size)

    @rule(side=st.sampled_from([Side.DOWNSTREAM, Side.UPSTREAM, Side.INTERPOSER]))
    def ping(self, side: Side) -> None:
        peer = self.triangle.peer(side)
        if peer is not None:
            peer.h2.ping(b"12345678")

    @rule(
        side=st.sampled_from(Side),
        is_inward=st.booleans(),
        size=st.sampled_from([1, 8, 9, 10, 1_000, 70_000, 1 << 30]),
    )
    def move(self, side: Side, is_inward: bool, size: int) -> None:
        self.triangle.move(side, is_inward=is_inward, size=size)

    @rule()
    def push_all(self) -> None:
        for key in self.outstanding:
            self.push(*key)

    @invariant()
    def little_is_kept(self) -> None:
        if not hasattr(self, "triangle"):
            return
        response_flow = self.triangle.core._response_flow

        interposed = self.triangle.core._request_flow.calls.values()
        held = sum(each.size for each in response_flow.held if each.is_interposed)
        held += sum(call.response.queued_bytes for call in interposed)
        assert held <= INTERPOSER_WINDOW_BYTES
        assert response_flow.room >= 0
        assert not self.triangle.core.is_over

    def teardown(self) -> None:
        """Everything that was sent arrives, in order and whole: nothing is stuck."""
        if not hasattr(self, "triangle"):
            return
        triangle = self.triangle
        for stream in self.paths:
            self.finished |= {(stream, True), (stream, False)}
        for _ in range(300):
            triangle.settle()
            for side in Side:
                if peer := triangle.peer(side):
                    if peer.h2.local_settings.initial_window_size < 65_535:
                        peer.h2.update_settings({INITIAL_WINDOW: 65_535})
                    peer.acknowledge()
            self.push_all()
            triangle.gather()
            if not any(triangle.pipes.values()):
                break

        assert not triangle.core.is_over
        stuck = {key: len(left) for key, left in self.outstanding.items() if left}
        assert not {key: left for key, left in stuck.items() if key[0] not in self.reset}
        for stream in self.paths:
            if stream in self.reset:
                continue
            server = self.server(stream)
            assert server is not None, f"stream {stream} did not arrive"
            asked, answered = server.streams[stream], triangle.kubelet.streams[stream]
            expected = tuple((n.encode(), v.encode()) for n, v in self.sent_headers[stream])
            assert asked.headers == [expected]
            assert asked.data == self.sent[stream, True]
            assert asked.is_ended
            assert answered.data == self.sent[stream, False]
            assert answered.is_ended
            assert len(answered.headers) == 2
        response_flow, request_flow = triangle.core._response_flow, triangle.core._request_flow
        assert not response_flow.held
        assert not response_flow.held_streams
        assert not request_flow.calls
        assert not request_flow.queued_bytes
        assert not request_flow.owed
        assert not triangle.core._streams.open
        assert request_flow.downstream_room == triangle.kubelet.h2.outbound_flow_control_window

    def is_done(self, stream: int) -> bool:
        return all(
            (stream, way) in self.finished and not self.outstanding[stream, way]
            for way in (True, False)
        )

    def answer(self, stream: int, peer: Peer) -> None:
        if stream not in self.answered:
            self.answered.add(stream)
            peer.h2.send_headers(stream, ANSWER)

    def push(self, stream: int, is_request: bool) -> None:
        """Send what the windows take of what was said."""
        key = stream, is_request
        peer = self.triangle.kubelet if is_request else self.server(stream)
        if stream in self.reset or peer is None or (key in self.done()):
            return
        if not is_request:
            self.answer(stream, peer)
        waiting = self.outstanding[key]
        is_end = key in self.finished
        sent = peer.send(stream, bytes(waiting), end=is_request and is_end)
        del waiting[:sent]
        if is_end and not waiting:
            self.done().add(key)
            if not is_request:
                peer.h2.send_headers(stream, TRAILERS, end_stream=True)

    def done(self) -> set[tuple[int, bool]]:
        if not hasattr(self, "_done"):
            self._done: set[tuple[int, bool]] = set()
        return self._done


TestFlow = Flow.TestCase
TestFlow.settings = settings(
    max_examples=25,
    stateful_step_count=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
