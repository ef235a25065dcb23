"""Pulling images: the placeholder is supplied by the proxy, all others come from where they come.

Kubelet asks for an image by ImageStatus, pulls what is not there (or always, as the pod says), and
creates the container with the id that it got. The placeholder is put into the runtime when it is
pulled, and at no other time: a question such as ImageStatus changes nothing. From then on it is an
image like any other, listed, counted, and removed by kubelet's garbage collection when nobody uses
it; the next pull supplies it again. An image that the runtime has already under the name stays,
wherever it came from.

Only containerd can be given an image. Another runtime, or a containerd that will not, pulls the
placeholder's name from a registry, as if the proxy were not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import imageconfigs, lifecycle
from cri_proxy.interposer.calls import Call
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.model import imagenames, placeholder
from cri_proxy.model.imagenames import ImageName
from cri_proxy.telemetry import logs

_log = logs.of(__name__)
KNOWN_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = (0.005, 0.2)


class Imports(Protocol):
    """Who can give the runtime an image: `containerd.images.Images`."""

    async def add(self, names: Sequence[str], root: placeholder.Blob) -> None:
        """Import an image under fully qualified names."""
        ...


class PullImage:
    """Supplies the placeholder image, and forwards every other pull."""

    def __init__(
        self,
        names: Collection[ImageName],
        runtime: imageconfigs.ImageStatus,
        imports: Imports,
        handlers: Handlers,
    ) -> None:
        """`names` are those under which the placeholder is asked for, each with a tag."""
        self._names = frozenset(names)
        self._repositories = frozenset(name.repository for name in names)
        self._runtime = runtime
        self._imports = imports
        self._handlers = handlers
        self._root = placeholder.build()
        self._supplying = asyncio.Lock()

    async def __call__(self, payload: bytes, call: Call) -> bytes:
        """Answer with the placeholder's id, or forward the pull."""
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
        """Return the name that `text` is, if what it names is the placeholder.

        A digest says which image is meant, whatever the tag before it: ours, or one to be pulled.
        """
        try:
            name = imagenames.parse(text)
        except errors.RequestInvalid:
            return None
        if name.digest:
            is_ours = name.repository in self._repositories and name.digest == self._root.digest
        else:
            is_ours = name in self._names
        return name if is_ours else None

    async def _supply(self, image: api_pb2.ImageSpec, name: ImageName) -> str:
        """Return the id of the image of that name, which the runtime is given if it has none."""
        async with self._supplying:
            known = await self._id_of(image)
            if known is not None:
                return known
            # As containerd itself names what it pulls; kubelet shows the one with the digest.
            by_digest = ImageName(name.repository, digest=self._root.digest)
            by_tag = [] if name.digest else [str(name)]
            await self._imports.add([str(by_digest), *by_tag], self._root)
            image_id = await self._await_id(image, name)
            _log.info("placeholder image supplied", image=name, id=image_id)
            return image_id

    async def _await_id(self, image: api_pb2.ImageSpec, name: ImageName) -> str:
        """Return the id once the CRI knows the image: it learns of imports by an event."""
        pause, longest = _PAUSE_SECONDS
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                while (known := await self._id_of(image)) is None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, longest)
        except TimeoutError:
            raise errors.SourceUnreachable(
                f"the runtime was given the image {name} and did not come to know it within "
                f"{KNOWN_SECONDS:g} seconds: check the log of containerd"
            ) from None
        return known

    async def _id_of(self, image: api_pb2.ImageSpec) -> str | None:
        """Return the id under which the runtime knows the image, None when it does not."""
        answer = await self._runtime.image_status(image)
        return answer.image.id if answer.HasField("image") else None
