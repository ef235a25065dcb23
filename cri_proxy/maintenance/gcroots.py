"""Holders: who keeps an environment on the node, read from the runtime's own lists and the pins.

    a container    running, created or exited, holds the environment that its annotations note
    a pod          that is ready holds what its annotations ask for, until a container of it notes
                   which environment that was
    a pin          holds what it was last realized as, or would most likely be

There is no list of ours beside the runtime's that could disagree with it. Pure.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment, selection
from cri_proxy.model import references
from cri_proxy.model.references import Reference

_STATES: Final = {
    api_pb2.CONTAINER_CREATED: "created",
    api_pb2.CONTAINER_RUNNING: "running",
    api_pb2.CONTAINER_EXITED: "exited",
}


@dataclass(frozen=True, slots=True)
class GcRoots:
    """Who holds what: by the identity of an environment, or by a reference where that is open."""

    identities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    references: Mapping[Reference, Sequence[str]] = field(default_factory=dict)

    def and_pins(self, pins: Mapping[Reference, str | None]) -> GcRoots:
        """Return these and the pins; each with the identity that it was last realized as."""
        identities = {identity: list(who) for identity, who in self.identities.items()}
        wanted = {reference: list(who) for reference, who in self.references.items()}
        for reference, identity in pins.items():
            who = f"pin {reference}"
            if identity is None:
                wanted.setdefault(reference, []).append(who)
            else:
                identities.setdefault(identity, []).append(who)
        return GcRoots(identities, wanted)

    def has(self, identity: str, reference: str, before: GcRoots) -> bool:
        """Whether an environment is held, be it by somebody who came after `before`.

        For the last look: a reference that is new since then is not known to mean another
        generation.
        """
        if identity in self.identities:
            return True
        found = references.parse(reference)
        return any(
            (each.owner, each.name) == (found.owner, found.name)
            and each.generation in {None, found.generation}
            for each in self.references.keys() - before.references.keys()
        )


def of_lists(
    containers: Iterable[api_pb2.Container], sandboxes: Iterable[api_pb2.PodSandbox]
) -> GcRoots:
    """Return who holds what by the runtime's lists of containers and pods."""
    pods = {each.id: each for each in sandboxes}
    identities: dict[str, list[str]] = collections.defaultdict(list)
    noted: dict[str, set[str]] = collections.defaultdict(set)
    for container in containers:
        identity = container.annotations.get(adjustment.IDENTITY_ANNOTATION)
        if not identity:
            continue
        noted[container.pod_sandbox_id].add(
            container.annotations.get(adjustment.ASKED_ANNOTATION, "")
        )
        state = _STATES.get(container.state, "unknown")
        pod = pods.get(container.pod_sandbox_id)
        name = f"{_name_of(pod)}/{container.metadata.name}" if pod else container.metadata.name
        identities[identity].append(f"container {name} ({state})")
    wanted: dict[Reference, list[str]] = collections.defaultdict(list)
    for pod in pods.values():
        if pod.state == api_pb2.SANDBOX_READY:
            for reference in _asked_by(pod):
                if str(reference) not in noted[pod.id]:
                    wanted[reference].append(f"pod {_name_of(pod)}")
    return GcRoots(dict(identities), dict(wanted))


def _asked_by(pod: api_pb2.PodSandbox) -> tuple[Reference, ...]:
    """Return what a pod's annotations ask for; those that cannot be read ask for nothing."""
    try:
        selected = selection.of_annotations(pod.annotations)
    except errors.RequestInvalid:
        return ()
    return () if selected is None else selected.references


def _name_of(pod: api_pb2.PodSandbox) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
