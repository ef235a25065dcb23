"""Warnings about annotations and environments that have no effect, logged once where they occur.

Services and profile scripts of an environment are meant for interactive shells, so they are not
run, as in Flox's own containers. An unknown annotation under our prefix is most likely mistyped. A
pod is never refused for it, since it may be meant for another or a newer program.
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


class UnsupportedParts:
    """Logs parts of environments that containers do not run, once for each environment."""

    def __init__(self) -> None:
        self._reported = cachetools.LRUCache[str, None](_REMEMBERED)

    def report(self, environment: Environment) -> None:
        """Log what containers in this environment will not run, the first time only."""
        if environment.identity in self._reported:
            return
        self._reported[environment.identity] = None
        if environment.services:
            _log.warning(
                "services of an environment are not started in pods: run each as the command of a "
                "container",
                environment=environment.reference,
                services=shown(environment.services),
            )
        if environment.has_profile:
            _log.warning(
                "profile scripts of an environment are not run in pods: move what a program needs "
                "into [vars] or hook.on-activate",
                environment=environment.reference,
            )


class UnknownAnnotations:
    """Logs unknown annotations under our prefix, each once for a namespace."""

    def __init__(self) -> None:
        self._reported = cachetools.LRUCache[tuple[str, str], None](_REMEMBERED)

    def report(self, config: api_pb2.PodSandboxConfig) -> None:
        """Log the pod's unknown annotations that are new in its namespace."""
        metadata = config.metadata
        unknown = selection.unknown(config.annotations)
        new = [key for key in unknown if (metadata.namespace, key) not in self._reported]
        for key in new[:_SHOWN]:
            self._reported[metadata.namespace, key] = None
            named = {
                "pod": f"{metadata.namespace}/{metadata.name}",
                "annotation": f"{key[:_SHOWN_OF_KEY]!a}"[1:-1],
            }
            if meant := unknown[key]:
                _log.warning("unknown annotation", **named, did_you_mean=meant)
            else:
                _log.warning("unknown annotation, see docs/pods.md", **named)


def shown(names: tuple[str, ...]) -> str:
    """Return names as text, with the number of those that are left out."""
    text = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{text} and {more} more" if more > 0 else text
