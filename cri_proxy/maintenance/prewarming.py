"""Prewarming: the live generation of each pinned environment, realized before a pod asks.

Each pin has a task of its own. It asks FloxHub which generation is live; if that has changed, or
the environment is gone, workers of the lowest priority realize it, a few at a time. The interval
until the next check has some jitter, so that the nodes of a cluster do not ask all at once. A pod
that needs the same environment meanwhile realizes it with workers of the foreground; store paths
are fetched only once.

A failure is logged once, retried with exponential backoff, and logged again when its cause has
changed or it is over. FloxHub is asked with the node's own token, if it has one.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from msgspec.structs import replace

from cri_proxy import errors
from cri_proxy.floxhub import protocol
from cri_proxy.floxhub.protocol import Resolve
from cri_proxy.interposer import tokens
from cri_proxy.lib.workers import Pool
from cri_proxy.maintenance import pins
from cri_proxy.maintenance.pins import Pin
from cri_proxy.model.references import Reference
from cri_proxy.realizer.realizer import Realizer
from cri_proxy.settings.schema import Settings
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_REREAD_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 5.0
_JITTER: Final = 0.2


class Prewarming:
    """The pins of one node: `pool` asks FloxHub, `realizer` has workers of the lowest priority."""

    def __init__(self, settings: Settings, pool: Pool, realizer: Realizer) -> None:
        self._settings = settings
        self._root = settings.store.root
        self._pool = pool
        self._realizer = realizer
        self._turns = asyncio.Semaphore(settings.prewarm.at_once)
        self._pins: dict[Reference, Pin] = {}
        self._live: dict[Reference, tuple[str, str]] = {}
        self._problems: tuple[str, ...] = ()
        self._saving = asyncio.Lock()

    def states(self) -> dict[str, int]:
        """Return how many pins are `ready`, `failing` and `underway`."""
        found = {"ready": 0, "failing": 0, "underway": 0}
        for pin in list(self._pins.values()):
            found["failing" if pin.failure else "ready" if pin.identity else "underway"] += 1
        return found

    async def run(self) -> None:
        """Follow the pins of settings and directory, for as long as the daemon lives."""
        remembered = await asyncio.to_thread(pins.load, self._root)
        # A failure from before the start that persists is logged again, once.
        self._pins = {name: replace(pin, failure="") for name, pin in remembered.items()}
        following: dict[Reference, asyncio.Task[None]] = {}
        try:
            while True:
                wanted, problems = await asyncio.to_thread(pins.wanted, self._settings.prewarm)
                for problem in set(problems) - set(self._problems):
                    _log.warning("invalid pin", why=problem)
                self._problems = problems
                await self._follow(wanted, following)
                await asyncio.sleep(_REREAD_SECONDS)
        finally:
            for task in following.values():
                task.cancel()
            await asyncio.gather(*following.values(), return_exceptions=True)

    async def _follow(
        self, wanted: tuple[Reference, ...], following: dict[Reference, asyncio.Task[None]]
    ) -> None:
        for reference in wanted:
            self._pins.setdefault(reference, Pin())
            if reference not in following:
                following[reference] = asyncio.create_task(
                    self._follow_one(reference), name=f"pin {reference}"
                )
        for reference in [each for each in following if each not in wanted]:
            _log.info("pin removed", reference=reference)
            following.pop(reference).cancel()
        if gone := self._pins.keys() - set(wanted):
            for reference in gone:
                del self._pins[reference]
            await self._save()

    async def _follow_one(self, reference: Reference) -> None:
        pause = _FIRST_PAUSE_SECONDS
        interval = self._settings.prewarm.interval_seconds
        while True:
            try:
                await self._refresh(reference)
            except (errors.CriProxyError, OSError) as error:
                known = self._pins.get(reference, Pin())
                if known.failure != str(error):
                    _log.warning("pin failed, will retry", reference=reference, why=error)
                    await self._note(reference, replace(known, failure=str(error)))
                await asyncio.sleep(_about(min(pause, interval)))
                pause *= 2
            except Exception as error:  # a bug, which ends this pin and no other
                _log.error("ended until the next start", what=f"pin {reference}", fault=error)
                raise
            else:
                pause = _FIRST_PAUSE_SECONDS
                await asyncio.sleep(_about(interval))

    async def _refresh(self, reference: Reference) -> None:
        file = self._settings.floxhub.token_file
        token = None if file is None else await asyncio.to_thread(tokens.of_node, file)
        resolution = await self._pool.call(protocol.RESOLVE, Resolve(reference, token))
        if resolution.is_stale:
            raise errors.SourceUnreachable(
                f"FloxHub is unreachable, so {reference} may have a newer generation: the one on "
                "this node stays; check the connection to FloxHub"
            )
        known = self._pins.get(reference, Pin())
        live = (str(resolution.reference), resolution.lock_digest)
        is_there = known.identity is not None and await self._realizer.load(known.identity)
        if not is_there or self._live.get(reference) != live:
            async with self._turns:
                # By its number: the realizer may have cached another generation as the live one.
                realization = self._realizer.begin(resolution.reference, token=token)
                known = replace(known, identity=(await realization.wait()).identity)
        self._live[reference] = live
        await self._note(reference, Pin(known.identity, resolution.reference.generation))
        if known.failure or known.generation != resolution.reference.generation:
            _log.info("pin ready", reference=resolution.reference)

    async def _note(self, reference: Reference, pin: Pin) -> None:
        self._pins[reference] = pin
        await self._save()

    async def _save(self) -> None:
        """Save the state of all pins; a failure is logged, and retried with the next change."""
        async with self._saving:
            try:
                await asyncio.to_thread(pins.save, self._root, dict(self._pins))
            except OSError as error:
                _log.warning("saving pins failed, will retry", why=error)


def _about(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
