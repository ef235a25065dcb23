"""Pins: a pod keeps the generation that it started with.

A container that restarts runs what the pod ran before, however far FloxHub has moved on; a new pod
gets the live generation. What a pod was given is remembered here and written nowhere: after a
restart of the proxy the runtime's own list of containers, with the annotations that we added, says
it again. Having been given an environment once also authorizes a pod to have it again: kubelet
writes the annotations of containers, pods cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cachetools

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.model import references
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference

_REMEMBERED: Final = 8192
_POD_UID_LABEL: Final = "io.kubernetes.pod.uid"


@dataclass(frozen=True, slots=True)
class KeptGeneration:
    """What a pod was given: the environment's identity, and the reference to realize it anew."""

    identity: str
    reference: Reference


_Key = tuple[str, str, str]


class KeptGenerations:
    """Which environment each pod was given for a reference as the pod writes it."""

    def __init__(self, containers: Callable[[], Awaitable[Sequence[api_pb2.Container]]]) -> None:
        """`containers` asks the runtime for all it has; it is asked once, when first needed."""
        self._containers = containers
        self._pins: cachetools.LRUCache[_Key, KeptGeneration] = cachetools.LRUCache(_REMEMBERED)
        self._is_seeded = False

    def remember(
        self, pod_uid: str, sandbox_id: str, asked: Reference, mode: Mode, pin: KeptGeneration
    ) -> None:
        """Note what a container of the pod was created with; the first one counts."""
        for pod in filter(None, (pod_uid, sandbox_id)):
            self._pins.setdefault((pod, str(asked), str(mode)), pin)

    async def find(
        self, pod_uid: str, sandbox_id: str, asked: Reference, mode: Mode
    ) -> KeptGeneration | None:
        """Return what the pod was given for `asked`, None when this is its first container."""
        if not self._is_seeded:
            await self._seed()
        for pod in (pod_uid, sandbox_id):
            pin = self._pins.get((pod, str(asked), str(mode)))
            if pin is not None:
                return pin
        return None

    async def _seed(self) -> None:
        """Read the pins of before the proxy's start from the runtime's containers, oldest first."""
        for container in sorted(await self._containers(), key=lambda each: each.created_at):
            notes = container.annotations
            try:
                asked = references.parse(notes[adjustment.ASKED_ANNOTATION])
                pin = KeptGeneration(
                    notes[adjustment.IDENTITY_ANNOTATION],
                    references.parse(notes[adjustment.REFERENCE_ANNOTATION]),
                )
                mode = Mode(notes[adjustment.MODE_ANNOTATION])
            except (KeyError, ValueError, errors.RequestInvalid):
                continue
            uid = container.labels.get(_POD_UID_LABEL, "")
            self.remember(uid, container.pod_sandbox_id, asked, mode, pin)
        self._is_seeded = True
