"""GC roots: what keeps an environment on the node, by the runtime's own lists and the pins.

    a container    running, created or exited, keeps the environment that its annotations record
    a pod          that is ready keeps what its annotations ask for, until one of its containers
                   records which environment that was
    a pin          keeps what it was last realized as, or else what it would most likely be

There is no list beside the runtime's, so none can disagree with it. Pure functions.
"""

from __future__ import annotations

import collections
import contextlib
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
    """What keeps which environment: by identity, or by reference where the identity is open."""

    identities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    references: Mapping[Reference, Sequence[str]] = field(default_factory=dict)

    def with_pins(self, pins: Mapping[Reference, str | None]) -> GcRoots:
        """Return these roots and the pins, each with the identity it was last realized as."""
        identities = {identity: list(roots) for identity, roots in self.identities.items()}
        wanted = {reference: list(roots) for reference, roots in self.references.items()}
        for reference, identity in pins.items():
            root = f"pin {reference}"
            if identity is None:
                wanted.setdefault(reference, []).append(root)
            else:
                identities.setdefault(identity, []).append(root)
        return GcRoots(identities, wanted)

    def keep(self, identity: str, reference: str, before: GcRoots) -> bool:
        """Return whether a root keeps an environment, one that is new since `before` included.

        For the last check before a removal: a new reference may mean any generation.
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
    """Return the roots by the runtime's lists of containers and pods."""
    pods = {each.id: each for each in sandboxes}
    identities: dict[str, list[str]] = collections.defaultdict(list)
    recorded: dict[str, set[str]] = collections.defaultdict(set)
    for container in containers:
        identity = container.annotations.get(adjustment.IDENTITY_ANNOTATION)
        if not identity:
            continue
        asked = container.annotations.get(adjustment.ASKED_ANNOTATION, "")
        recorded[container.pod_sandbox_id].add(asked)
        state = _STATES.get(container.state, "unknown")
        pod = pods.get(container.pod_sandbox_id)
        name = f"{_name_of(pod)}/{container.metadata.name}" if pod else container.metadata.name
        identities[identity].append(f"container {name} ({state})")
    wanted: dict[Reference, list[str]] = collections.defaultdict(list)
    for pod in pods.values():
        if pod.state == api_pb2.SANDBOX_READY:
            with contextlib.suppress(errors.RequestInvalid):  # such a pod has asked for nothing
                selected = selection.of_annotations(pod.annotations)
                for reference in () if selected is None else selected.references:
                    if str(reference) not in recorded[pod.id]:
                        wanted[reference].append(f"pod {_name_of(pod)}")
    return GcRoots(dict(identities), dict(wanted))


def _name_of(pod: api_pb2.PodSandbox) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
