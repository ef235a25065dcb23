"""Endings: the calls that a pod ends with, one short trace of their own.

    pod.stop                 from the first call to the last, with a link to the pod's `pod.startup`
      …/StopContainer
      …/StopPodSandbox
      …/RemoveContainer …    if they follow within `settle_seconds`

A pod may run for months, so this is another trace than its startup's. What kubelet removes later
(it collects dead containers once a minute) is a `pod.stop` again, and so is a container that is
stopped to be restarted. Endings are only for a collector; the node keeps none.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Final

from cri_proxy.telemetry import spans
from cri_proxy.telemetry.spans import Context, Span
from cri_proxy.tracing.startups import Startup

ROOT: Final = "pod.stop"


@dataclass(eq=False, slots=True)
class StopTrace:
    """One that is under way."""

    startup: Startup
    root: Span
    calls: int = 0
    ended_at: int = 0
    failure: str | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def context(self) -> Context:
        """What names its root."""
        return self.root.context


class StopTraces:
    """All endings that are under way; belongs to the daemon's event loop."""

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._endings: dict[tuple[str, int], StopTrace] = {}

    def enter(self, startup: Startup) -> StopTrace:
        """Count a call that begins; it is part of the ending that is returned."""
        pod = startup.pod
        ending = self._endings.get(pod.key)
        if ending is None:
            ids = (random.getrandbits(128) or 1, random.getrandbits(64) or 1)
            root = spans.root(
                ROOT, ids, parent=None, start=time.time_ns(), attributes=pod.attributes
            )
            root.add_link(startup.context)
            ending = self._endings[pod.key] = StopTrace(startup, root)
        ending.calls += 1
        if ending.timer is not None:
            ending.timer.cancel()
            ending.timer = None
        return ending

    def leave(self, ending: StopTrace, failure: str | None) -> None:
        """Count a call that has ended, well or with the words of `failure`."""
        ending.calls -= 1
        ending.ended_at = time.time_ns()
        ending.failure = failure
        if not ending.calls:
            loop = asyncio.get_running_loop()
            ending.timer = loop.call_later(self._settle_seconds, self._end, ending)

    def close(self) -> None:
        """End them all."""
        for ending in list(self._endings.values()):
            self._end(ending)

    def _end(self, ending: StopTrace) -> None:
        if ending.timer is not None:
            ending.timer.cancel()
        del self._endings[ending.startup.pod.key]
        if ending.failure is not None:
            ending.root.fail(ending.failure)
        ending.root.finish(ending.ended_at or None)
