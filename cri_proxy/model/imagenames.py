"""Names of images in full, such as `docker.io/flox/empty:1.0.0`, parsed from any short form.

Registry and `library/` may be left out, and the tag when it is `latest`; a digest may follow, and
then it alone says which image is meant. Source of the rules: github.com/distribution/reference,
which kubelet, containerd and CRI-O use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors

_DEFAULT_REGISTRY: Final = "docker.io"
_REGISTRY_ALIASES: Final = {"index.docker.io": _DEFAULT_REGISTRY}
_REGISTRY: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?")
_PATH: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """A repository with its registry, and which of its images: by tag, by digest or by both."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> ImageName:
    """Return the image name that `text` writes; raise RequestInvalid if it writes none."""
    rest, at, digest = text.partition("@")
    before, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # what follows the colon is a port
        before, tag = rest, ""
    registry, path = _split(before)
    if not (
        _REGISTRY.fullmatch(registry)
        and _PATH.fullmatch(path)
        and (_TAG.fullmatch(tag) if rest != before else True)
        and (_DIGEST.fullmatch(digest) if at else True)
    ):
        raise errors.RequestInvalid(
            f"{text[:300]!a} is no image name: write it like flox/empty:1.0.0"
        )
    return ImageName(f"{registry}/{path}", tag or ("" if digest else "latest"), digest)


def _split(repository: str) -> tuple[str, str]:
    """Return registry and path; the first part is a registry only if it looks like one."""
    first, slash, rest = repository.partition("/")
    if slash and (first == "localhost" or set(first) & set(".:") or first != first.lower()):
        registry, path = _REGISTRY_ALIASES.get(first, first), rest
    else:
        registry, path = _DEFAULT_REGISTRY, repository
    if registry == _DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    return registry, path
