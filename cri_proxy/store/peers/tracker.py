"""The tracker: which peers have the paths that this node tracks, and whose turn it is to fetch.

It hands out turns for each path: to fetch it from one of the peers that have it, a few at a time
from each, or, while none has it, one turn to ask the origin. Callers wait while there is no turn.
So of fifty nodes that want a path at once, one asks the origin, four fetch from that one, twenty
from these five, and so on. A turn ends with its holder's connection, and at the latest after a time
in proportion to the path's size: a holder that hangs delays the others, but does not stop them.

Narinfos are kept for a while, too: the first caller that asks for one is sent to the origin, and
others wait a moment for what that caller finds.

All of it is in memory. Peers report what they have every few minutes, so a restarted tracker soon
knows it again; until then the origin is asked once more. The tracker trusts its callers, and they
do not trust it.
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
    """The turn to fetch a path from the peer `source`, or from the origin if that is None."""

    source: str | None
    ends: float


@dataclass(slots=True)
class _Path:
    """One path: the peers that have it, until when that counts, and who has or awaits a turn."""

    holders: dict[str, float] = field(default_factory=dict)
    turns: set[Turn] = field(default_factory=set)
    waiting: collections.deque[asyncio.Future[None]] = field(default_factory=collections.deque)


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
        """Record that the peer at `address` has these paths."""
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
        """End a turn, with or without success."""
        path = self._path_of(digest)
        path.turns.discard(turn)
        self._wake(path)

    def drop(self, digest: str, address: str) -> None:
        """Record that the peer at `address` did not give a path that it claimed to have."""
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
        """Wake the callers that wait for a narinfo: it has arrived, or it will not."""
        asked = self._asked.pop(digest, None)
        if asked is not None and not asked[0].done():
            asked[0].set_result(None)

    def _granted(self, path: _Path, size: int) -> Turn | None:
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
            return None  # from a former holder: the turn's outcome is worth waiting for
        turn = Turn(source, now + TURN_SECONDS + size / TURN_BYTES_A_SECOND)
        path.turns.add(turn)
        return turn

    async def _wait(self, path: _Path, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        path.waiting.append(future)
        try:
            await asyncio.wait({future}, timeout=seconds)
        finally:
            if not future.done():
                future.cancel()
                path.waiting.remove(future)

    def _wake(self, path: _Path) -> None:
        """Wake the callers that have waited longest: as many as may get a turn now."""
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
                if known.turns or known.waiting or known is path:
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
        if len(self._asked) % 256 == 0:
            for digest in [each for each, (_, until) in self._asked.items() if until <= now]:
                del self._asked[digest]
