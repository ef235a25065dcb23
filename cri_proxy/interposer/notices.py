"""Notices: what a pod or its environment asks for that nobody does, said once where it is met.

A container has one program. Services and profile scripts of an environment are for people at a
shell, so they are not run, as in Flox's own containers; whoever reads the log of the node finds it
said for each environment when the first container is created with it.

An annotation under our prefix that nobody reads is most likely mistyped. A pod is never refused for
it, since the pod may be meant for another, newer reader; the log says it when such a pod begins.
"""

from __future__ import annotations

from typing import Final

import cachetools

from cri_proxy.cri import api_pb2
from cri_proxy.interposer import selection
from cri_proxy.model.environments import Environment
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_REMEMBERED: Final = 1024
_SHOWN: Final = 10
_SHOWN_OF_KEY: Final = 100


class Notices:
    """Which environments have been spoken of."""

    def __init__(self) -> None:
        self._given: cachetools.LRUCache[str, None] = cachetools.LRUCache(_REMEMBERED)

    def give(self, environment: Environment) -> None:
        """Say what containers in this environment will miss, the first time only."""
        if environment.identity in self._given:
            return
        self._given[environment.identity] = None
        for text in of_environment(environment):
            _log.warning(text, environment=environment.reference)


class Unknown:
    """Which annotations that nobody reads have been spoken of: once for a namespace."""

    def __init__(self) -> None:
        self._told: cachetools.LRUCache[tuple[str, str], None] = cachetools.LRUCache(_REMEMBERED)

    def tell(self, config: api_pb2.PodSandboxConfig) -> None:
        """Say which of a pod's annotations mean nothing, those that are new in its namespace."""
        metadata = config.metadata
        unknown = selection.unknown(config.annotations)
        new = [key for key in unknown if (metadata.namespace, key) not in self._told]
        for key in new[:_SHOWN]:
            self._told[metadata.namespace, key] = None
            _log.warning(
                of_annotation(key, unknown[key]), pod=f"{metadata.namespace}/{metadata.name}"
            )


def of_annotation(key: str, meant: str | None) -> str:
    """Return the sentence for an annotation that nobody reads."""
    shown = f"{key[:_SHOWN_OF_KEY]!a}"
    if meant is None:
        return f"annotation {shown} means nothing to cri-proxy: see docs/pods.md for those that do"
    return f"annotation {shown} means nothing to cri-proxy: did you mean {meant}?"


def of_environment(environment: Environment) -> list[str]:
    """Return a sentence for each part of the environment that containers do not run."""
    found = []
    if environment.services:
        shown = ", ".join(environment.services[:_SHOWN])
        more = len(environment.services) - _SHOWN
        names = f"{shown} and {more} more" if more > 0 else shown
        found.append(
            f"services of an environment are not started in pods ({names}): run each as the "
            "command of a container"
        )
    if environment.has_profile:
        found.append(
            "profile scripts of an environment are not run in pods: move what a program needs into "
            "[vars] or hook.on-activate"
        )
    return found
