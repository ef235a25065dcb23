"""A container image registry over plain HTTP on this machine, for containerd to pull from.

    with Registry() as registry:
        name = registry.put("web", "1", layers=[...])        127.0.0.1:<port>/web:1
        pods.pull(name)

It can also replace other registries (`mirrors` of `containerd`): an image that is offered by its
full name is served for that name in any registry.

It supports only pulls (distribution specification: GET and HEAD of manifests and blobs). Images are
added by method calls; layers are compressed tar archives with the known digest of their plain
content, so that nothing is decompressed here. A blob is a file or bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from hack.testbed import images

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIGURATION: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_PATH: Final = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<what>[^/]+)")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the file, the digests of the file and of its tar archive, and the media type."""

    file: Path
    digest: str
    plain_digest: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip"


class Registry:
    """Serves on 127.0.0.1 while the context lasts; `requests` is the number of requests."""

    def __init__(self) -> None:
        self.requests = 0
        self._manifests: dict[tuple[str, str], str] = {}
        self._blobs: dict[str, tuple[str, bytes | Path]] = {}
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def address(self) -> str:
        """Its host and port, which are the first part of its images' names."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.server_address[1]}"

    def put(self, name: str, tag: str, layers: Sequence[Layer], *, env: Sequence[str] = ()) -> str:
        """Add an image; return its full name."""
        configuration = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [each.plain_digest for each in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._keep(json.dumps(configuration).encode(), _CONFIGURATION),
            "layers": [self._offer(each) for each in layers],
        }
        digest = self._keep(json.dumps(manifest).encode(), _MANIFEST)["digest"]
        self._manifests[name, tag] = str(digest)
        return f"{self.address}/{name}:{tag}"

    def offer(self, image: images.Image) -> None:
        """Add an image of the testbed under its own name."""
        _, _, rest = image.name.partition("/")
        name, _, tag = rest.partition(":")
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._keep(images.configuration_of(image), _CONFIGURATION),
            "layers": [self._keep(each, _LAYER) for each in image.layers],
        }
        digest = self._keep(json.dumps(manifest).encode(), _MANIFEST)["digest"]
        self._manifests[name, tag or "latest"] = str(digest)

    def find(self, path: str) -> tuple[str, str, bytes | Path] | None:
        """Return digest, media type and content of the manifest or blob at a URL's path."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        digest = match["what"]
        if match["kind"] == "manifests":
            digest = self._manifests.get((match["name"], digest), digest)
        return None if digest not in self._blobs else (digest, *self._blobs[digest])

    def _keep(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _offer(self, layer: Layer) -> dict[str, object]:
        self._blobs[layer.digest] = ("application/octet-stream", layer.file)
        size = layer.file.stat().st_size
        return {"mediaType": layer.media_type, "digest": layer.digest, "size": size}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.registry.requests += 1
        path = self.path.partition("?")[0]
        found = self.server.registry.find(path)
        if found is None:
            self.send_response(HTTPStatus.OK if path == "/v2/" else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        digest, media_type, contents = found
        size = len(contents) if isinstance(contents, bytes) else contents.stat().st_size
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(contents, bytes):
            self.wfile.write(contents)
            return
        self.wfile.flush()
        with contents.open("rb") as file:
            self.connection.sendfile(file)

    do_HEAD = do_GET  # noqa: N815 - the name is the standard library's

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
