"""The tracker: what one node knows of the paths that fall to it, and whose turn it is.

Of each path it knows which peers have it, and hands out turns: to take the path from one of them, a
few at a time from each, or, while nobody has it, one to ask the origin. Who comes when there is no
turn waits for one. So of fifty nodes that want a path at once one asks the origin, four take it
from that one, twenty from these five, and so on. A turn ends with whoever holds it, and in any case
after so long as the path's size allows: one that hangs delays the others and stops nobody.

Narinfos are kept for a while, too: the first who asks for one is sent to the origin, and who comes
meanwhile waits a moment for what that one finds.

All of it is in memory. Peers tell what they have every few minutes, so a tracker that was started
anew soon knows again; until then the origin is asked once more. It believes who calls it, and its
callers do not believe it.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

FANOUT: Final = 4
HELD_SECONDS: Final = 1800.0
"""How long a peer counts as having a path after it said so."""

TURN_SECONDS: Final = 15.0
TURN_BYTES_A_SECOND: Final = 4_000_000
NARINFO_SECONDS: Final = 600.0
NARINFO_WAIT_SECONDS: Final = 2.0
_PATHS: Final = 100_000
_HOLDERS: Final = 256
_NARINFO_BYTES: Final = 32 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Turn:
    """The turn to take a path from the peer `source`, or from the origin if that is None."""

    source: str | None
    ends: float


@dataclass(slots=True)
class _Path:
    """One path: who has it and until when that counts, and the turns that are out."""

    holders: dict[str, float] = field(default_factory=dict)
    turns: set[Turn] = field(default_factory=set)
    waiting: collections.deque[asyncio.Future[None]] = field(default_factory=collections.deque)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is at it now."""
        return not self.turns and not self.waiting


class Tracker:
    """The paths that fall to one node, by digest; belongs to one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._paths: collections.OrderedDict[str, _Path] = collections.OrderedDict()
        self._narinfos: collections.OrderedDict[str, tuple[bytes, float]] = (
            collections.OrderedDict()
        )
        self._narinfo_bytes = 0
        self._asked: dict[str, tuple[asyncio.Future[None], float]] = {}

    def hold(self, digests: Iterable[str], address: str) -> None:
        """Take note that the peer at `address` has these paths."""
        until = self._clock() + HELD_SECONDS
        for digest in digests:
            path = self._path_of(digest)
            path.holders.pop(address, None)  # the latest stands last
            path.holders[address] = until
            if len(path.holders) > _HOLDERS:
                del path.holders[next(iter(path.holders))]
            self._wake(path)

    async def turn(
        self, digest: str, size: int, *, asker: str | None, within: float
    ) -> Turn | None:
        """Return a turn for a path of `size` bytes, None if there is none in time.

        `asker` does not have the path, whatever it said before.
        """
        path = self._path_of(digest)
        if asker is not None:
            path.holders.pop(asker, None)
        deadline = self._clock() + within
        while (turn := self._granted(path, size)) is None:
            left = min(deadline, min(each.ends for each in path.turns)) - self._clock()
            if self._clock() >= deadline:
                return None
            await self._wait(path, max(left, 0.01))
        return turn

    def release(self, digest: str, turn: Turn) -> None:
        """End a turn, whatever came of it."""
        path = self._path_of(digest)
        path.turns.discard(turn)
        self._wake(path)

    def drop(self, digest: str, address: str) -> None:
        """Take note that the peer at `address` did not give a path, whatever it said before."""
        path = self._path_of(digest)
        path.holders.pop(address, None)
        self._wake(path)

    async def narinfo(self, digest: str) -> bytes | None:
        """Return what the caches say of a path; None: the caller is the one to ask them."""
        if (known := self._known_narinfo(digest)) is not None:
            return known
        now = self._clock()
        asked = self._asked.get(digest)
        if asked is None or asked[1] <= now:
            future = asyncio.get_running_loop().create_future()
            self._asked[digest] = (future, now + NARINFO_WAIT_SECONDS)
            self._forget_asked(now)
            return None
        await asyncio.wait({asked[0]}, timeout=asked[1] - now)
        return self._known_narinfo(digest)

    def learn(self, digest: str, narinfo: bytes) -> None:
        """Keep a narinfo, which the caller has verified."""
        self._drop_narinfo(digest)
        self._narinfos[digest] = (narinfo, self._clock() + NARINFO_SECONDS)
        self._narinfo_bytes += len(narinfo)
        while self._narinfo_bytes > _NARINFO_BYTES:
            self._drop_narinfo(next(iter(self._narinfos)))
        self.ask_yourselves(digest)

    def ask_yourselves(self, digest: str) -> None:
        """Have nobody wait for a narinfo any more: it is here, or it never will be."""
        asked = self._asked.pop(digest, None)
        if asked is not None and not asked[0].done():
            asked[0].set_result(None)

    def _granted(self, path: _Path, size: int) -> Turn | None:
        """Return a turn, if there is one now."""
        now = self._clock()
        for turn in [each for each in path.turns if each.ends <= now]:
            path.turns.discard(turn)
        for address in [each for each, until in path.holders.items() if until <= now]:
            del path.holders[address]
        taken = collections.Counter(each.source for each in path.turns)
        source = min(path.holders, key=lambda each: taken[each], default=None)
        if taken[source] >= (1 if source is None else FANOUT):
            return None
        if source is None and path.turns:
            return None  # from a holder that is none any more: its outcome is worth waiting for
        turn = Turn(source, now + TURN_SECONDS + size / TURN_BYTES_A_SECOND)
        path.turns.add(turn)
        return turn

    async def _wait(self, path: _Path, seconds: float) -> None:
        """Wait until something changes about a path, or so long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        path.waiting.append(future)
        try:
            await asyncio.wait({future}, timeout=seconds)
        finally:
            if not future.done():
                future.cancel()
                path.waiting.remove(future)

    def _wake(self, path: _Path) -> None:
        """Have those look again who waited longest: as many as may find a turn now."""
        left = FANOUT
        while path.waiting and left:
            future = path.waiting.popleft()
            if not future.done():
                future.set_result(None)
                left -= 1

    def _path_of(self, digest: str) -> _Path:
        """Return what is known of a path, forgetting others when they become too many."""
        path = self._paths.get(digest)
        if path is None:
            path = self._paths[digest] = _Path()
            while len(self._paths) > _PATHS:
                oldest, known = next(iter(self._paths.items()))
                if not known.is_idle or known is path:
                    break
                del self._paths[oldest]
        self._paths.move_to_end(digest)
        return path

    def _known_narinfo(self, digest: str) -> bytes | None:
        known = self._narinfos.get(digest)
        if known is None:
            return None
        if known[1] <= self._clock():
            self._drop_narinfo(digest)
            return None
        return known[0]

    def _drop_narinfo(self, digest: str) -> None:
        dropped = self._narinfos.pop(digest, None)
        if dropped is not None:
            self._narinfo_bytes -= len(dropped[0])

    def _forget_asked(self, now: float) -> None:
        """Drop questions that nobody answered, now and then."""
        if len(self._asked) % 256 == 0:
            for digest in [each for each, (_, until) in self._asked.items() if until <= now]:
                del self._asked[digest]
