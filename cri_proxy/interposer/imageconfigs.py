"""What an image says a container is to run, for containers whose pod does not say it itself.

The runtime joins a pod's command with the image's entrypoint only inside itself. Whoever puts an
activation before the program, or another directory before PATH, needs that configuration too; it is
asked of the runtime by ImageStatus and remembered by the image's id, which names its content.

How a runtime describes images is its own affair: the CRI promises text. One that says nothing, or
what cannot be read, leaves the configuration unknown; that is told in the log, and is an error only
where the pod cannot do without (see `adjustment`).
"""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

import cachetools

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer.adjustment import ImageConfig
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_REMEMBERED: Final = 1024


class ImageStatus(Protocol):
    """Who knows images: `cri.runtime.Runtime`."""

    async def image_status(
        self, image: api_pb2.ImageSpec, *, verbose: bool = False
    ) -> api_pb2.ImageStatusResponse:
        """Ask the runtime about an image."""
        ...


class ImageConfigs:
    """Configurations of the images that the runtime has."""

    def __init__(self, runtime: ImageStatus) -> None:
        self._runtime = runtime
        self._known: cachetools.LRUCache[str, ImageConfig] = cachetools.LRUCache(_REMEMBERED)

    async def config_of(self, image: api_pb2.ImageSpec) -> ImageConfig:
        """Return the configuration of `image`; raise NotFound when the runtime does not have it."""
        known = self._known.get(image.image)
        if known is not None:
            return known
        answer = await self._runtime.image_status(image, verbose=True)
        if not answer.HasField("image"):
            raise errors.NotFound(
                f"the runtime does not have the image {image.image}: let kubelet pull it "
                "(imagePullPolicy), or mend its name"
            )
        config = parse(answer.info.get("info", ""))
        if not config.is_known:
            _log.warning("the runtime does not tell an image's configuration", image=image.image)
        if answer.image.id == image.image:
            self._known[answer.image.id] = config
        return config


def parse(info: str) -> ImageConfig:
    """Return the configuration in the info of ImageStatus: `{"imageSpec": {"config": …}}`.

    Source of the shape: containerd's and CRI-O's image status, the OCI image specification within.
    """
    try:
        spec = json.loads(info)["imageSpec"]
        config: dict[str, Any] = spec.get("config") or {}
        pairs = (variable.partition("=") for variable in _texts_of(config.get("Env")))
        return ImageConfig(
            entrypoint=_texts_of(config.get("Entrypoint")),
            cmd=_texts_of(config.get("Cmd")),
            variables={name: value for name, _, value in pairs},
            working_dir=config.get("WorkingDir") or "",
        )
    except (ValueError, TypeError, AttributeError, LookupError):
        return ImageConfig(is_known=False)


def _texts_of(value: object) -> tuple[str, ...]:
    """Return a list of texts, which Go writes as null when it is empty."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError
    return tuple(value)
