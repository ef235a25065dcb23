"""Restoring pods from checkpoints: refused for pods with environments.

RestorePod creates a sandbox and containers from a checkpoint in one call. A restored process
continues with the files that it had open and mapped, which may differ from those of the current
environment, and its mounts are the checkpoint's: the proxy can neither add nor verify the
environment. All other pods are restored unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import handlers, lifecycle, selection
from cri_proxy.interposer.calls import Call


@dataclass(frozen=True, slots=True)
class RestorePod:
    """Refuses pods that ask for an environment."""

    _handlers: handlers.Handlers

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the call unchanged if the pod asks for no environment."""
        request = lifecycle.decode(api_pb2.RestorePodRequest, payload)
        if request is None:
            return await call.forward(payload)
        wanted = selection.of_annotations(request.config.annotations)
        if wanted is not None:
            named = ", ".join(map(str, wanted.references)) or "none"
            raise errors.RequestInvalid(
                f"pod {handlers.pod_name(request.config)} cannot be restored from a checkpoint, "
                f"which does not contain its FloxHub environments ({named}): start a new pod"
            )
        if self._handlers.real(request.runtime_handler) is not None:
            raise handlers.without_environment(request.runtime_handler, request.config)
        return await call.forward(payload)
