"""The generation that a pod started with, kept for its restarts.

A container that restarts runs what the pod ran before, even if FloxHub has newer generations. That
is kept in memory only: after a restart of the proxy it is read from the annotations that we added
to the runtime's containers. A pod that was given an environment once is also authorized to get it
again: pods cannot change the annotations of containers.
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
    """What a pod was given: the environment's identity, and the reference to realize it again."""

    identity: str
    reference: Reference


class KeptGenerations:
    """The environments that pods were given, by pod and by reference as the pod wrote it."""

    def __init__(self, containers: Callable[[], Awaitable[Sequence[api_pb2.Container]]]) -> None:
        """`containers` lists the runtime's containers; it is called once, when first needed."""
        self._containers = containers
        self._kept = cachetools.LRUCache[tuple[str, str, str], KeptGeneration](_REMEMBERED)
        self._is_seeded = False

    def remember(
        self, pod_uid: str, sandbox_id: str, asked: Reference, mode: Mode, kept: KeptGeneration
    ) -> None:
        """Record what a container of the pod was created with; the first container counts."""
        for pod in filter(None, (pod_uid, sandbox_id)):
            self._kept.setdefault((pod, str(asked), str(mode)), kept)

    async def find(
        self, pod_uid: str, sandbox_id: str, asked: Reference, mode: Mode
    ) -> KeptGeneration | None:
        """Return what the pod was given for `asked`, None if this is its first container."""
        if not self._is_seeded:
            await self._seed()
        found = (self._kept.get((pod, str(asked), str(mode))) for pod in (pod_uid, sandbox_id))
        return next(filter(None, found), None)

    async def _seed(self) -> None:
        """Read what was given before the proxy's start from the containers, oldest first."""
        for container in sorted(await self._containers(), key=lambda each: each.created_at):
            annotations = container.annotations
            try:
                asked = references.parse(annotations[adjustment.ASKED_ANNOTATION])
                kept = KeptGeneration(
                    annotations[adjustment.IDENTITY_ANNOTATION],
                    references.parse(annotations[adjustment.REFERENCE_ANNOTATION]),
                )
                mode = Mode(annotations[adjustment.MODE_ANNOTATION])
            except (KeyError, ValueError, errors.RequestInvalid):
                continue
            uid = container.labels.get(_POD_UID_LABEL, "")
            self.remember(uid, container.pod_sandbox_id, asked, mode, kept)
        self._is_seeded = True
