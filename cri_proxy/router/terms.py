"""SETTINGS: what each side announced, and how the others are told.

A side's announcement is read into its `Terms` and passed on with two changes. The table size is
ours to say, and it is zero, so that whoever reads it sends header blocks that stand alone (see
`headers`): the runtime and the interposer are told at once, kubelet by a `Limit`. The frame size is
at most ours, so that a frame which has not fully arrived stays small. The values that are nonsense
pass as they are: the receiver is the one to object.

The format is RFC 9113, section 6.5.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from cri_proxy.router import frames

HEADER_TABLE_SIZE: Final = 0x1
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5

LARGEST_FRAME_BYTES: Final = 1 << 20
LARGEST_PENDING: Final = 1000

_SETTING: Final = struct.Struct(">HL")
STATELESS: Final = _SETTING.pack(HEADER_TABLE_SIZE, 0)
"""The setting that whoever sends header blocks is told, sooner or later."""


class Terms:
    """What a side has announced so far: how much it takes at once."""

    __slots__ = ("_values", "frame_bytes", "window_bytes")

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self.window_bytes = frames.INITIAL_WINDOW_BYTES
        """INITIAL_WINDOW_SIZE: of every stream towards this side."""
        self.frame_bytes = frames.INITIAL_FRAME_BYTES
        """MAX_FRAME_SIZE as its peers are told it."""

    def announce(self, payload: bytes) -> tuple[bytes, int]:
        """Take in a SETTINGS payload; return the one to pass on, and the change of stream windows.

        The one to pass on names no table size. Raises Violation if the payload is not a list of
        settings.
        """
        if len(payload) % _SETTING.size:
            raise frames.Violation(frames.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
        passed = []
        before = self.window_bytes
        for identifier, value in _SETTING.iter_unpack(payload):
            told = value
            if identifier == HEADER_TABLE_SIZE:
                continue
            if identifier == MAX_FRAME_SIZE and value > LARGEST_FRAME_BYTES:
                told = LARGEST_FRAME_BYTES if value < 1 << 24 else value
            if identifier == MAX_FRAME_SIZE and frames.INITIAL_FRAME_BYTES <= told < 1 << 24:
                self.frame_bytes = told
            if identifier == INITIAL_WINDOW_SIZE and value <= frames.LARGEST_WINDOW:
                self.window_bytes = value
            if len(self._values) < 64 or identifier in self._values:
                self._values[identifier] = told
            passed.append(_SETTING.pack(identifier, told))
        return b"".join(passed), self.window_bytes - before

    def summary(self) -> bytes:
        """Return one SETTINGS payload for a side that joins late and keeps the usual sizes."""
        others = (
            each
            for each in self._values.items()
            if each[0] not in (INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE)
        )
        return STATELESS + b"".join(_SETTING.pack(*each) for each in others)


class Limit:
    """The size that downstream's header table may have: the protocol's own at first, then zero.

    It is told in SETTINGS of our own, and not among the first, which are upstream's: a client may
    count on the table that upstream gives it for as long as it has acknowledged no other size. The
    acknowledgements of all SETTINGS come in their order, which tells ours from upstream's.
    """

    __slots__ = ("_ahead", "is_acknowledged", "is_told")

    def __init__(self) -> None:
        self.is_told = False
        self.is_acknowledged = False
        self._ahead = 0
        """SETTINGS of upstream's to be acknowledged before ours."""

    def passed(self) -> None:
        """Take note that SETTINGS of upstream's pass."""
        self._ahead += not self.is_told

    def tell(self) -> bytes:
        """Return the frame that tells downstream."""
        self.is_told = True
        return frames.build(frames.SETTINGS, 0, 0, STATELESS)

    def acknowledge(self) -> bool:
        """Take note of an acknowledgement; return whether it is ours, and not to be passed on."""
        if self._ahead:
            self._ahead -= 1
            return False
        is_ours = self.is_told and not self.is_acknowledged
        self.is_acknowledged = self.is_told
        return is_ours


class Effect:
    """When downstream's INITIAL_WINDOW_SIZE takes effect on what is sent to it.

    A reduction does at once, an increase when its acknowledgement has passed: before and after,
    no more is sent than downstream expects.
    """

    __slots__ = ("_in_force", "_pending", "window_bytes")

    def __init__(self) -> None:
        self.window_bytes = frames.INITIAL_WINDOW_BYTES
        self._in_force = frames.INITIAL_WINDOW_BYTES
        self._pending: deque[int] = deque()

    def announce(self, window_bytes: int) -> int:
        """Take downstream's announcement; return the change that takes effect now."""
        self._pending.append(window_bytes)
        if len(self._pending) > LARGEST_PENDING:
            raise frames.Violation(frames.ENHANCE_YOUR_CALM, "too many SETTINGS at once")
        return self._change()

    def acknowledge(self) -> int:
        """Take note that an acknowledgement passes; return the change that takes effect now."""
        if self._pending:
            self._in_force = self._pending.popleft()
        return self._change()

    def _change(self) -> int:
        before = self.window_bytes
        self.window_bytes = min((self._in_force, *self._pending))
        return self.window_bytes - before
