"""Three HTTP/2 peers from another implementation around one router connection, joined by pipes.

    kubelet (h2) <--> router's core <--> runtime (h2)
                           ^-----------> interposer (h2), once it is needed

The peers are `h2` connections, which check everything that they receive: windows, frame sizes,
stream states, header tables. A `Triangle` moves bytes through six pipes, all at once (`settle`) or
a few at a time through one of them (`move`), so that a test can force any interleaving. A `Ledger`
records what a peer has received on a stream.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h2.stream
import h2.windows

from cri_proxy.router import frames
from cri_proxy.router.connection import Connection, Side
from cri_proxy.router.headers import MethodMatcher

INTERPOSED: Final = "/runtime.v1.RuntimeService/CreateContainer"
ENDLESS: Final = "/runtime.v1.RuntimeService/GetContainerEvents"
OTHER: Final = "/runtime.v1.RuntimeService/ListContainers"
MATCHER: Final = MethodMatcher(frozenset({INTERPOSED}), frozenset({ENDLESS}))

Fields = tuple[tuple[bytes, bytes], ...]


def request_of(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the request headers of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]


ANSWER: Final = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS: Final = [("grpc-status", "0"), ("grpc-message", "")]


@dataclass
class Ledger:
    """What a peer has received on one stream."""

    headers: list[Fields] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    unacknowledged: int = 0
    is_ended: bool = False
    reset: int | None = None


class _Windows(h2.windows.WindowManager):
    """A window that accepts empty DATA frames even below zero, unlike h2's own."""

    def window_consumed(self, size: int) -> None:
        if size:
            super().window_consumed(size)


class _Strict(h2.connection.H2Connection):
    """An h2 connection with such windows, and with the right meaning of the first SETTINGS ACK.

    That ACK answers the initial SETTINGS; h2 would relate it to the first change of settings, if
    there has already been one.
    """

    _is_opening_acknowledged = False

    def _local_settings_acked(self) -> dict[int, h2.settings.ChangedSetting]:
        if self._is_opening_acknowledged:
            return super()._local_settings_acked()
        self._is_opening_acknowledged = True
        return {}

    def _begin_new_stream(
        self, stream_id: int, allowed_ids: h2.connection.AllowedStreamIDs
    ) -> h2.stream.H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        size = stream._inbound_window_manager.max_window_size
        stream._inbound_window_manager = _Windows(size)
        return stream


class Peer:
    """An h2 connection with everything it has received."""

    def __init__(self, *, is_client: bool, settings: dict[int, int] | None = None) -> None:
        self.h2 = _Strict(
            h2.config.H2Configuration(
                client_side=is_client, header_encoding=None, validate_inbound_headers=False
            )
        )
        self._rest = bytearray()
        self._preface = 0 if is_client else len(frames.PREFACE)
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(dict(settings))
        self.streams: defaultdict[int, Ledger] = defaultdict(Ledger)
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int]] = []
        self.unknown: list[bytes] = []
        self.acknowledged = 0

    def receive(self, data: bytes) -> None:
        """Receive bytes from the router; a violation of the protocol raises an exception.

        They are passed to h2 frame by frame, because it only checks the frame size once per call.
        """
        self._rest += data
        while len(self._rest) >= self._preface + 9:
            size = self._preface or 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < size:
                return
            frame = bytes(self._rest[:size])
            del self._rest[:size]
            self._preface = 0
            self._receive_frame(frame)

    def _receive_frame(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            match event:
                case (
                    h2.events.RequestReceived()
                    | h2.events.ResponseReceived()
                    | h2.events.TrailersReceived()
                ):
                    assert event.headers is not None
                    assert event.stream_id is not None
                    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
                    self.streams[event.stream_id].headers.append(fields)
                case h2.events.DataReceived():
                    ledger = self.streams[event.stream_id]
                    ledger.data += event.data or b""
                    ledger.unacknowledged += event.flow_controlled_length or 0
                case h2.events.StreamEnded():
                    self.streams[event.stream_id].is_ended = True
                case h2.events.StreamReset():
                    self.streams[event.stream_id].reset = int(event.error_code or 0)
                case h2.events.PingReceived():
                    self.pings.append(event.ping_data or b"")
                case h2.events.PingAckReceived():
                    self.pongs.append(event.ping_data or b"")
                case h2.events.ConnectionTerminated():
                    self.goaways.append((event.last_stream_id or 0, int(event.error_code or 0)))
                case h2.events.UnknownFrameReceived():
                    self.unknown.append(event.frame.serialize()[9:])
                case h2.events.SettingsAcknowledged():
                    self.acknowledged += 1

    def acknowledge(self) -> bool:
        """Open the windows by all received bytes; return whether there were any."""
        is_any = False
        for stream, ledger in self.streams.items():
            size, ledger.unacknowledged = ledger.unacknowledged, 0
            if size:
                is_any = True
                self.grant(stream, size)
        return is_any

    def grant(self, stream: int, size: int) -> None:
        """Open a window by exactly this many bytes; below zero, h2 itself would withhold some."""
        self.h2.increment_flow_control_window(size)
        with contextlib.suppress(h2.exceptions.ProtocolError, KeyError):  # the stream is closed
            self.h2.increment_flow_control_window(size, stream)

    def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send as much of the data as the windows allow; return how much that was."""
        sent = 0
        while True:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            part = data[sent : sent + room] if room > 0 else b""
            is_last = sent + len(part) == len(data)
            if not part and not (is_last and end):
                return sent
            self.h2.send_data(stream, part, end_stream=end and is_last)
            sent += len(part)
            if is_last:
                return sent


class Triangle:
    """The router's core between its three peers."""

    def __init__(
        self,
        *,
        kubelet: dict[int, int] | None = None,
        runtime: dict[int, int] | None = None,
        interposer: dict[int, int] | None = None,
    ) -> None:
        self.core = Connection(MATCHER)
        self.kubelet = Peer(is_client=True, settings=kubelet)
        self.runtime = Peer(is_client=False, settings=runtime)
        self.interposer: Peer | None = None
        self.pipes: dict[tuple[Side, bool], bytearray] = {
            (side, is_inward): bytearray() for side in Side for is_inward in (True, False)
        }
        self._interposer_settings = interposer

    def peer(self, side: Side) -> Peer | None:
        """Return the peer of a side, None for an interposer that was not needed yet."""
        match side:
            case Side.DOWNSTREAM:
                return self.kubelet
            case Side.UPSTREAM:
                return self.runtime
            case Side.INTERPOSER:
                return self.interposer

    def gather(self) -> None:
        """Write the output of the peers and the router to the pipes."""
        for side in Side:
            peer = self.peer(side)
            if peer is not None:
                self.pipes[side, True] += peer.h2.data_to_send()
        if self.core.wants_interposer:
            self.interposer = Peer(is_client=False, settings=self._interposer_settings)
            self.core.interposer_opened()
        for side, out in self._outs():
            if side is not Side.INTERPOSER or self.interposer is not None:
                self.pipes[side, False] += b"".join(out)
                out.clear()

    def move(self, side: Side, *, is_inward: bool, size: int = 1 << 30) -> bool:
        """Move at most `size` bytes through one pipe; return whether there were any."""
        self.gather()
        pipe = self.pipes[side, is_inward]
        data = bytes(pipe[:size])
        if not data or (is_inward and not self.core.may_read(side)):
            return False
        del pipe[:size]
        if not is_inward:
            peer = self.peer(side)
            assert peer is not None
            peer.receive(data)
        else:
            {
                Side.DOWNSTREAM: self.core.receive_downstream,
                Side.UPSTREAM: self.core.receive_upstream,
                Side.INTERPOSER: self.core.receive_interposer,
            }[side](data)
        self.gather()
        return True

    def settle(self) -> None:
        """Move everything until nothing moves any more."""
        while sum(self.move(side, is_inward=inward) for side, inward in self.pipes):
            pass

    def ask(self, stream: int, path: str, *more: tuple[str, str]) -> None:
        """Make a complete request as kubelet, and deliver it."""
        self.kubelet.h2.send_headers(stream, request_of(path, *more))
        self.kubelet.h2.send_data(stream, b"question", end_stream=True)
        self.settle()

    def lose_interposer(self, reason: str = "gone") -> None:
        """Break the connection to the interposer, and drop all bytes in its pipes."""
        self.interposer = None
        self.pipes[Side.INTERPOSER, True].clear()
        self.pipes[Side.INTERPOSER, False].clear()
        self.core.interposer_lost(reason)
        self.gather()

    def _outs(self) -> Iterator[tuple[Side, list[bytes]]]:
        yield Side.DOWNSTREAM, self.core.to_downstream
        yield Side.UPSTREAM, self.core.to_upstream
        yield Side.INTERPOSER, self.core.to_interposer
