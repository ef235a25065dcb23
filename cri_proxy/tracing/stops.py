"""Pod stops: the calls that stop and remove a pod, as a short trace of their own.

    pod.stop                 from the first call to the last, with a link to the pod's `pod.startup`
      …/StopContainer
      …/StopPodSandbox
      …/RemoveContainer …    if they follow within `settle_seconds`

A pod may run for months, so this is not the trace of its startup. What kubelet removes later (it
collects dead containers once a minute) is another `pod.stop`, and so is a container that is stopped
to be restarted. Stops are only sent to a collector; the node keeps none.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

from cri_proxy.telemetry import spans
from cri_proxy.tracing.startups import CallGroup, Startup

ROOT: Final = "pod.stop"


@dataclass(eq=False, slots=True, kw_only=True)
class StopTrace(CallGroup):
    """One pod stop that has not ended."""

    key: tuple[str, int]


class StopTraces:
    """All open pod stops; belongs to the daemon's event loop."""

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._stops: dict[tuple[str, int], StopTrace] = {}

    def enter(self, startup: Startup) -> StopTrace:
        """Note that a call begins; return the pod stop that it is part of."""
        pod = startup.pod
        stop = self._stops.get(pod.key)
        if stop is None:
            ids = (random.getrandbits(128) or 1, random.getrandbits(64) or 1)
            root = spans.root(
                ROOT, ids, parent=None, start=time.time_ns(), attributes=pod.attributes
            )
            root.add_link(startup.context)
            stop = self._stops[pod.key] = StopTrace(root.context, root, key=pod.key)
        stop.enter()
        return stop

    def leave(self, stop: StopTrace, failure: str | None) -> None:
        """Note that a call has ended, successfully or with the message `failure`."""
        if stop.leave(failure):
            stop.settle_in(self._settle_seconds, self._end)

    def close(self) -> None:
        """End all of them."""
        for stop in list(self._stops.values()):
            self._end(stop)

    def _end(self, stop: StopTrace) -> None:
        self._stops.pop(stop.key, None)
        stop.end()
