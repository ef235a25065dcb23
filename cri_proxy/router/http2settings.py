"""HTTP/2 SETTINGS: what each side announced, and what is forwarded of it.

A side's SETTINGS are recorded in its `Http2Settings` and forwarded with two changes. The header
table size is always ours, and it is zero, so that peers send self-contained header blocks (see
`headers`): the runtime and the interposer get it at once, kubelet by a `HeaderTableLimit`. The
frame size is capped, so that little has to be buffered. Invalid values are forwarded as they are:
rejecting them is up to the receiver.

Format: RFC 9113, section 6.5.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cri_proxy.router import frames

HEADER_TABLE_SIZE: Final = 0x1
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5

LARGEST_FRAME_BYTES: Final = 1 << 20
LARGEST_PENDING: Final = 1000
_REMEMBERED: Final = 64
_FRAME_SIZE_LIMIT: Final = 1 << 24  # a frame length has 24 bits

_SETTING: Final = struct.Struct(">HL")
STATELESS: Final = _SETTING.pack(HEADER_TABLE_SIZE, 0)
"""The setting that makes a peer send header blocks without a dynamic table."""


@dataclass(slots=True, eq=False)
class Http2Settings:
    """What one side has announced so far."""

    window_bytes: int = frames.INITIAL_WINDOW_BYTES
    """INITIAL_WINDOW_SIZE: the window of every stream towards this side."""
    frame_bytes: int = frames.INITIAL_FRAME_BYTES
    """MAX_FRAME_SIZE as forwarded to its peers."""
    _values: dict[int, int] = field(default_factory=dict)

    def update(self, payload: bytes) -> tuple[bytes, int]:
        """Apply a SETTINGS payload; return what to forward and the change of stream windows.

        What is forwarded lacks the table size. Raises Violation if the payload is malformed.
        """
        if len(payload) % _SETTING.size:
            raise frames.Violation(
                frames.FRAME_SIZE_ERROR, "SETTINGS length is not a multiple of 6 bytes"
            )
        forwarded = []
        before = self.window_bytes
        for identifier, value in _SETTING.iter_unpack(payload):
            if identifier == HEADER_TABLE_SIZE:
                continue
            if identifier == MAX_FRAME_SIZE and (
                frames.INITIAL_FRAME_BYTES <= value < _FRAME_SIZE_LIMIT
            ):
                value = self.frame_bytes = min(value, LARGEST_FRAME_BYTES)
            if identifier == INITIAL_WINDOW_SIZE and value <= frames.LARGEST_WINDOW:
                self.window_bytes = value
            if len(self._values) < _REMEMBERED or identifier in self._values:
                self._values[identifier] = value
            forwarded.append(_SETTING.pack(identifier, value))
        return b"".join(forwarded), self.window_bytes - before

    def summary(self) -> bytes:
        """Return one SETTINGS payload for a side that joins late, with default sizes."""
        sizes = (INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE)
        others = (each for each in self._values.items() if each[0] not in sizes)
        return STATELESS + b"".join(_SETTING.pack(*each) for each in others)


@dataclass(slots=True, eq=False)
class HeaderTableLimit:
    """The limit of downstream's header table: the protocol's default at first, then zero.

    It is announced in SETTINGS of our own, not in the first ones, which are upstream's: a client
    may use the table that upstream offers until it has acknowledged another size. SETTINGS are
    acknowledged in order, so counting tells our acknowledgement from upstream's.
    """

    is_announced: bool = False
    is_acknowledged: bool = False
    _ahead: int = 0
    """SETTINGS of upstream that will be acknowledged before ours."""

    def forwarded(self) -> None:
        """Count SETTINGS of upstream that are forwarded."""
        self._ahead += not self.is_announced

    def announce(self) -> bytes:
        """Return the SETTINGS frame that announces the limit to downstream."""
        self.is_announced = True
        return frames.build(frames.SETTINGS, 0, 0, STATELESS)

    def acknowledge(self) -> bool:
        """Count an acknowledgement; return whether it is ours and must not be forwarded."""
        if self._ahead:
            self._ahead -= 1
            return False
        is_ours = self.is_announced and not self.is_acknowledged
        self.is_acknowledged = self.is_announced
        return is_ours


@dataclass(slots=True, eq=False)
class EffectiveWindow:
    """Downstream's INITIAL_WINDOW_SIZE as it is in effect for what is sent to downstream.

    A reduction takes effect when announced, an increase when its acknowledgement has been
    forwarded: at no time is more sent than downstream expects.
    """

    window_bytes: int = frames.INITIAL_WINDOW_BYTES
    _acknowledged: int = frames.INITIAL_WINDOW_BYTES
    _pending: deque[int] = field(default_factory=deque)

    def announce(self, window_bytes: int) -> int:
        """Record an announcement of downstream; return the change that takes effect now."""
        self._pending.append(window_bytes)
        if len(self._pending) > LARGEST_PENDING:
            raise frames.Violation(
                frames.ENHANCE_YOUR_CALM, f"more than {LARGEST_PENDING} SETTINGS in flight"
            )
        return self._change()

    def acknowledge(self) -> int:
        """Record a forwarded acknowledgement; return the change that takes effect now."""
        if self._pending:
            self._acknowledged = self._pending.popleft()
        return self._change()

    def _change(self) -> int:
        before = self.window_bytes
        self.window_bytes = min((self._acknowledged, *self._pending))
        return self.window_bytes - before
