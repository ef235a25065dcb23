"""Build the installer's image without Docker: distribution, busybox and script, as an OCI layout.

    python -m hack.installer dist/cri-proxy-1.2.3-linux-x86_64.tar.gz installer.tar

The inputs are the tarball, manifests/installer/install.sh and this machine's static busybox; the
same inputs give the same bytes. The output is a tar of an OCI image layout for `ctr images import`,
`kind load image-archive` and `skopeo copy oci-archive:`. manifests/installer/Dockerfile builds an
image with the same content with Docker.
"""

from __future__ import annotations

import platform
import re
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

from hack.testbed import images

NAME: Final = "ghcr.io/cri-proxy/installer"
SCRIPT: Final = Path(__file__).parents[1] / "manifests" / "installer" / "install.sh"
_DISTRIBUTION: Final = re.compile(r"cri-proxy-(?P<version>.+)-linux-(?P<machine>\w+)\.tar\.gz")


class Unsuitable(Exception):
    """The image cannot be built; the message says why."""


def image_of(distribution: Path) -> images.Image:
    """Return the image that installs the tarball."""
    match = _DISTRIBUTION.fullmatch(distribution.name)
    if match is None:
        raise Unsuitable(f"{distribution} is not named cri-proxy-VERSION-linux-MACHINE.tar.gz")
    if match["machine"] != platform.machine():
        raise Unsuitable(f"{distribution} is for {match['machine']}, not {platform.machine()}")
    (busybox,) = (each for each in images.of_testbed() if each.name == images.BUSYBOX)
    script = images.File(SCRIPT.read_bytes(), 0o755)
    return images.Image(
        name=f"{NAME}:{match['version']}",
        layers=(
            *busybox.layers,
            images.layer(_files_of(distribution)),
            images.layer({"install.sh": script}),
        ),
        entrypoint=("/bin/sh", "/install.sh"),
        cmd=("install",),
        env=("PATH=/bin",),
    )


def _files_of(distribution: Path) -> dict[str, images.File]:
    """Return the files of the tarball's single directory, below cri-proxy/."""
    found: dict[str, images.File] = {}
    with tarfile.open(distribution) as tar:
        for member in tar.getmembers():
            below = PurePosixPath(member.name).parts[1:]
            path = str(PurePosixPath("cri-proxy", *below))
            if member.isdir():
                found[path] = images.File(mode=member.mode | 0o40000)
            elif member.issym():
                found[path] = images.File(target=member.linkname)
            elif member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                found[path] = images.File(content.read(), member.mode)
            else:
                raise Unsuitable(f"{distribution} contains {member.name}, which is not a file")
    return dict(sorted(found.items()))


def main() -> int:
    """Write the image; return the exit status."""
    if len(sys.argv) != 3:
        print("usage: python -m hack.installer DISTRIBUTION.tar.gz IMAGE.tar", file=sys.stderr)
        return 2
    try:
        image = image_of(Path(sys.argv[1]))
    except (Unsuitable, OSError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 1
    images.write(image, Path(sys.argv[2]))
    print(image.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
