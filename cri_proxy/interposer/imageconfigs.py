"""The command and variables that an image defines, for containers whose pod does not define them.

The runtime combines a pod's command with the image's entrypoint internally. To put an activation in
front of the program, or a directory in front of PATH, the proxy needs that configuration too. It is
queried by ImageStatus and cached by the image's id, which identifies the content.

The CRI does not specify how a runtime describes images. An unknown configuration is logged, and an
error only if the pod depends on it (see `adjustment`).
"""

from __future__ import annotations

from typing import Final

import cachetools
import msgspec

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer.adjustment import ImageConfig
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
_REMEMBERED: Final = 1024


class ImageConfigs:
    """Configurations of the images that the runtime has."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: cachetools.LRUCache[str, ImageConfig] = cachetools.LRUCache(_REMEMBERED)

    async def config_of(self, image: api_pb2.ImageSpec) -> ImageConfig:
        """Return the configuration of `image`; raise NotFound if the runtime does not have it."""
        known = self._known.get(image.image)
        if known is not None:
            return known
        response = await self._runtime.image_status(image, verbose=True)
        if not response.HasField("image"):
            raise errors.NotFound(
                f"the runtime does not have the image {image.image}: pull it before creating the "
                "container"
            )
        config = parse(response.info.get("info", ""))
        if not config.is_known:
            _log.warning("the runtime does not report an image's configuration", image=image.image)
        if response.image.id == image.image:
            self._known[response.image.id] = config
        return config


class _Config(msgspec.Struct, rename="pascal"):
    """An OCI image configuration; Go writes an empty list as null."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    working_dir: str | None = None


class _Spec(msgspec.Struct):
    config: _Config | None = None


class _Info(msgspec.Struct, rename="camel"):
    image_spec: _Spec


def parse(info: str) -> ImageConfig:
    """Return the configuration in the info of ImageStatus: `{"imageSpec": {"config": …}}`.

    Source of the format: image status of containerd and CRI-O, with the OCI image configuration.
    """
    try:
        config = msgspec.json.decode(info, type=_Info).image_spec.config or _Config()
    except msgspec.MsgspecError:
        return ImageConfig(is_known=False)
    pairs = (variable.partition("=") for variable in config.env or ())
    return ImageConfig(
        entrypoint=config.entrypoint or (),
        cmd=config.cmd or (),
        variables={name: value for name, _, value in pairs},
        working_dir=config.working_dir or "",
    )
