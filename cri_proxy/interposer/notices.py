"""Notices: what an environment asks for that no container does, said once where a pod meets it.

A container has one program. Services and profile scripts of an environment are for people at a
shell, so they are not run, as in Flox's own containers; whoever reads the log of the node finds it
said for each environment when the first container is created with it.
"""

from __future__ import annotations

from typing import Final

import cachetools

from cri_proxy.model.environments import Environment
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_REMEMBERED: Final = 1024
_SHOWN: Final = 10


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
