"""Image pulls: the placeholder is supplied by the proxy, all other pulls are forwarded.

The placeholder is imported into the runtime when it is pulled, and at no other time: a query such
as ImageStatus changes nothing. From then on it is an image like any other, and removed by kubelet's
garbage collection when unused; the next pull supplies it again. An image that the runtime already
has under the name is kept, wherever it came from.

Images can only be imported into containerd. Another runtime, or a containerd that refuses, pulls
the placeholder's name from a registry, as it would without the proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from cri_proxy import errors
from cri_proxy.containerd.images import Images
from cri_proxy.cri import api_pb2
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import lifecycle
from cri_proxy.interposer.calls import Call
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.model import imagenames, placeholder
from cri_proxy.model.imagenames import ImageName
from cri_proxy.model.placeholder import Blob
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
KNOWN_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = (0.005, 0.2)


@dataclass(frozen=True, slots=True, eq=False)
class PullImage:
    """Supplies the placeholder image, and forwards every other pull."""

    _names: Collection[ImageName]
    """The names of the placeholder, each with a tag."""
    _runtime: Runtime
    _images: Images
    _handlers: Handlers
    _root: Blob = field(default_factory=placeholder.build)
    _supplying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Return the placeholder's id, or forward the pull."""
        request = lifecycle.decode(api_pb2.PullImageRequest, payload)
        if request is None:
            return await call.forward(payload)
        is_mapped = self._handlers.map_image(request.image)
        name = self._placeholder_of(request.image.image)
        if name is not None:
            try:
                image_id = await self._supply(request.image, name)
            except errors.CriProxyError as error:
                _log.warning("placeholder image not supplied, pulling", image=name, why=error)
            else:
                return api_pb2.PullImageResponse(image_ref=image_id).SerializeToString()
        return await call.forward(request.SerializeToString() if is_mapped else payload)

    def _placeholder_of(self, text: str) -> ImageName | None:
        """Return the parsed name if it refers to the placeholder.

        A digest decides regardless of the tag: it is our image's, or that of one to be pulled.
        """
        try:
            name = imagenames.parse(text)
        except errors.RequestInvalid:
            return None
        is_ours = name in self._names
        if name.digest:
            is_named = any(name.repository == each.repository for each in self._names)
            is_ours = is_named and name.digest == self._root.digest
        return name if is_ours else None

    async def _supply(self, image: api_pb2.ImageSpec, name: ImageName) -> str:
        """Return the id of the image of that name, imported first if the runtime has none."""
        async with self._supplying:
            known = await self._id_of(image)
            if known is not None:
                return known
            # The names that containerd gives to what it pulls; kubelet shows the one by digest.
            by_digest = ImageName(name.repository, digest=self._root.digest)
            by_tag = [] if name.digest else [str(name)]
            await self._images.add([str(by_digest), *by_tag], self._root)
            image_id = await self._await_id(image, name)
            _log.info("placeholder image supplied", image=name, id=image_id)
            return image_id

    async def _await_id(self, image: api_pb2.ImageSpec, name: ImageName) -> str:
        """Return the id once the CRI lists the image: it learns of imports from an event."""
        pause, longest = _PAUSE_SECONDS
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                while (known := await self._id_of(image)) is None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, longest)
        except TimeoutError:
            raise errors.SourceUnreachable(
                f"image {name} was imported into containerd, but the CRI does not list it after "
                f"{KNOWN_SECONDS:g} seconds: check the log of containerd"
            ) from None
        return known

    async def _id_of(self, image: api_pb2.ImageSpec) -> str | None:
        """Return the image's id in the runtime, None if it does not have the image."""
        response = await self._runtime.image_status(image)
        return response.image.id if response.HasField("image") else None
