"""Restoring pods from checkpoints: a second way to create containers, closed to environments.

RestorePod makes a sandbox and containers from a checkpoint in one call. A restored process goes on
with the files that it had open and mapped, which may not be those of today's environment, and its
mounts are the checkpoint's; the proxy could neither add the environment nor vouch for it. So a pod
with an environment is refused, in words that tell what to do instead. All other pods are restored
as ever.
"""

from __future__ import annotations

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import handlers, lifecycle, selection
from cri_proxy.interposer.calls import Call


class RestorePod:
    """Refuses the pod that asks for an environment."""

    def __init__(self, known: handlers.Handlers) -> None:
        self._handlers = known

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Forward the pod if it asks for none."""
        request = lifecycle.decode(api_pb2.RestorePodRequest, payload)
        if request is None:
            return await call.forward(payload)
        wanted = selection.of_annotations(request.config.annotations)
        if wanted is not None:
            named = ", ".join(map(str, wanted.references)) or "none"
            raise errors.RequestInvalid(
                f"pod {handlers.pod_name(request.config)} cannot be restored from a checkpoint: "
                f"it runs in FloxHub environments ({named}), which a checkpoint does not hold; "
                f"start it anew, or take the annotation {selection.ENVIRONMENT} off the pod"
            )
        if self._handlers.real(request.runtime_handler) is not None:
            raise handlers.without_environment(request.runtime_handler, request.config)
        return await call.forward(payload)
