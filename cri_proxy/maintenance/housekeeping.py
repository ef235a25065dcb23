"""Housekeeping: the daemon watches its disk and starts garbage collections.

    usage above garbage.high_percent    removes least recently started environments until usage is
                                        below garbage.low_percent, or the rest has GC roots
    once an hour                        removes environments not started for garbage.age_seconds,
                                        and store paths that no environment has had for a day
    once a day                          removes records of FloxHub's answers that are no longer used

Space and inodes count alike. A step that fails, because the runtime is unavailable or another
collection is running, is retried at the next check. Workers of the lowest priority do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub import protocol
from cri_proxy.lib import meters
from cri_proxy.lib.workers import Pool
from cri_proxy.maintenance.collection import Collection, Freed
from cri_proxy.settings.schema import Settings
from cri_proxy.store.disk import garbage, staging
from cri_proxy.store.disk.garbage import Rules
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_AGE_EVERY_SECONDS: Final = 3600.0
_FORGET_EVERY_SECONDS: Final = 86400.0
_MEASURE_EVERY_SECONDS: Final = 120.0
_FIRST_SECONDS: Final = 300.0
_LEFTOVER_SECONDS: Final = 86400.0
FORGET_SECONDS: Final = 90 * 86400.0

_environments = meters.counter(
    "cri_proxy_garbage_environments_total", "Environments that were removed."
)
_paths = meters.counter("cri_proxy_garbage_paths_total", "Store paths that were removed.")
_size = meters.counter(
    "cri_proxy_garbage_size_bytes_total", "Unpacked size of removed store paths."
)


class Housekeeping:
    """The housekeeping of one daemon; `pool` has workers of the lowest priority."""

    def __init__(self, settings: Settings, collector: Collection, pool: Pool) -> None:
        self.store_bytes = 0  # as last measured
        self._settings = settings.garbage
        self._is_measured = bool(settings.metrics.listen)
        self._root = settings.store.root
        self._collection = collector
        self._pool = pool
        self._due = _Due()
        self._warned = ""

    async def run(self) -> None:
        """Check the disk every garbage.interval_seconds, for as long as the daemon lives."""
        while True:
            try:
                await self._check()
                self._warned = ""
            except (errors.CriProxyError, OSError) as error:
                if str(error) != self._warned:  # not again at every check
                    self._warned = str(error)
                    if isinstance(error, OSError):
                        _log.warning("disk usage check failed, will retry", why=error)
                    else:
                        _log.warning("garbage collection failed, will retry", why=error)
            await asyncio.sleep(self._settings.interval_seconds)

    async def _check(self) -> None:
        if await asyncio.to_thread(_has_garbage, self._root):
            await self._collection.empty()
        if self._is_measured and self._due.has_come("measure", _MEASURE_EVERY_SECONDS):
            await self._measure()
        usage = await asyncio.to_thread(_usage_of, self._root)
        age = self._settings.age_seconds
        if usage.share * 100 > self._settings.high_percent:
            await self._make_room(usage)
        elif self._due.has_come("age", min(_AGE_EVERY_SECONDS, age or _AGE_EVERY_SECONDS)):
            rules = Rules(self._settings.grace_seconds, age_seconds=age or None)
            unused = max(self._settings.grace_seconds, _LEFTOVER_SECONDS)
            await self._collect(rules, unused, "age")
        if self._due.has_come("forget", _FORGET_EVERY_SECONDS):
            await self._pool.call(protocol.FORGET, FORGET_SECONDS)

    async def _make_room(self, usage: _Usage) -> None:
        """Collect in rounds until usage is low, since file sizes only estimate what is freed."""
        while usage.share * 100 > self._settings.low_percent:
            excess = usage.excess_bytes(self._settings.low_percent)
            rules = Rules(self._settings.grace_seconds, wanted_bytes=max(1, excess))
            freed = await self._collect(rules, self._settings.grace_seconds, "room")
            if not freed.gone and not freed.paths:
                raise errors.NodeExhausted(
                    f"the file system of {self._root} is {usage.share:.0%} full and nothing more "
                    "can be removed: what is left is in use by containers, pods and pins, or was "
                    "started recently; `cri-proxy gc --dry-run` lists it"
                )
            usage = await asyncio.to_thread(_usage_of, self._root)

    async def _collect(self, rules: Rules, unused_seconds: float, reason: str) -> Freed:
        freed = await self._collection.collect(rules, unused_seconds=unused_seconds)
        _environments.add(len(freed.gone))
        _paths.add(freed.paths)
        _size.add(freed.bytes)
        for each in freed.gone:
            _log.info("environment removed", reference=each.reference, why=reason)
        if freed.gone or freed.paths:
            await self._collection.empty()
            _log.info(
                "garbage collected",
                why=reason,
                environments=len(freed.gone),
                paths=freed.paths,
                bytes=freed.bytes,
            )
            if self._is_measured:
                await self._measure()
        return freed

    async def _measure(self) -> None:
        measured = await self._pool.call(garbage.MEASURE, None)
        self.store_bytes = measured.bytes


@dataclass(slots=True)
class _Due:
    """When periodic work was last done; the first time is some minutes after the start."""

    _last: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def has_come(self, name: str, every_seconds: float) -> bool:
        """Return whether work is due, and if so count it as done."""
        now = time.monotonic()
        first = self._began + min(_FIRST_SECONDS, every_seconds) - every_seconds
        if now - self._last.get(name, first) < every_seconds:
            return False
        self._last[name] = now
        return True


@dataclass(frozen=True, slots=True)
class _Usage:
    """The usage of a file system, without the blocks reserved for root."""

    used_bytes: int
    all_bytes: int
    inode_share: float

    @property
    def share(self) -> float:
        """The higher one of the shares of space and inodes, from 0 to 1."""
        return max(self.used_bytes / max(1, self.all_bytes), self.inode_share)

    def excess_bytes(self, percent: int) -> int:
        return self.used_bytes - self.all_bytes * percent // 100


def _usage_of(root: Path) -> _Usage:
    state = os.statvfs(root)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    inodes = state.f_files - state.f_ffree
    return _Usage(
        used_bytes=used,
        all_bytes=used + state.f_bavail * state.f_frsize,
        inode_share=inodes / (inodes + state.f_favail) if inodes + state.f_favail else 0.0,
    )


def _has_garbage(root: Path) -> bool:
    for name in ("environments", "store"):
        with contextlib.suppress(FileNotFoundError):
            if any((root / name / staging.GARBAGE).iterdir()):
                return True
    return False
