"""Images for critest, and the tests that cannot pass here.

critest pulls its images from Kubernetes' registries. Here, one registry on this machine stands in
for all of them, with images that behave as the tests expect: a small Linux, the same with other
users, and a web server with the name nginx. They have the names that critest uses.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hack.testbed import images
from hack.testbed.images import File, Image

LEFT_OUT: Final = {
    "public image with digest should be pulled": "the image is named by a digest of its contents",
    "NoNewPrivs": "needs an image with its own setuid program",
    "port mapping with host port": "the testbed's network does not change the host's firewall",
    "benchmark": "benchmarks rather than tests",
}
"""Parts of the names of tests that no runtime can pass here, and why; they are skipped."""

REGISTRIES: Final = ("registry.k8s.io", "k8s.gcr.io", "gcr.io")

_E2E: Final = "registry.k8s.io/e2e-test-images"
_STAGING: Final = "gcr.io/k8s-staging-cri-tools"
_MACHINE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
# The name of a script is its process's name, and its arguments are in the process's command line.
_WEB_SERVER: Final = b"""#!/bin/sh
trap 'exit 0' TERM INT QUIT
mkdir -p /var/run
echo $$ >/var/run/nginx.pid
echo "httpd -D FOREGROUND, on port $PORT"
httpd -f -p "$PORT" -h /srv &
wait
"""


def all_images() -> Iterator[Image]:
    """Yield every image that the known versions of critest pull."""
    files = images.busybox_files()
    files |= {
        "etc/passwd": File(
            b"root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"
            b"default-user:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        ),
        "etc/group": File(
            b"root:x:0:\nusers:x:100:\nwww-data:x:33:\ndefault-user:x:1000:\n"
            b"group-defined-in-image:x:50000:default-user\n"
        ),
        # Applets that the machine's busybox may lack, and a separate program that can be masked.
        "bin/ipcs": File(b"#!/bin/sh\nexec cat /proc/sysvipc/shm\n", 0o755),
        "bin/pgrep": File(b'#!/bin/sh\nexec pidof "$1"\n', 0o755),
        "bin/ls": files["bin/busybox"],
    }
    linux = Image(
        name=f"{_E2E}/busybox:1.29-2",
        layers=(images.layer(files),),
        cmd=("sh",),
        env=("PATH=/bin:/sbin:/usr/bin:/usr/sbin",),
    )
    yield linux
    yield from _tagged(linux)
    yield from _of_users(linux)
    yield from _web_servers(linux)
    yield replace(linux, name="registry.k8s.io/pause:3.9", cmd=("sleep", "2147483647"))


def _tagged(linux: Image) -> Iterator[Image]:
    """Yield images that are pulled but not run; those of test-image-tags are the same image."""
    for name in ("latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"):
        layer = images.layer({name: File(name.encode())})
        yield replace(linux, name=f"{_STAGING}/test-image-{name}", layers=(*linux.layers, layer))
    same = images.layer({"same-image": File()})
    for tag in ("1", "2", "3"):
        name = f"{_STAGING}/test-image-tags:{tag}"
        yield replace(linux, name=name, layers=(*linux.layers, same))


def _of_users(linux: Image) -> Iterator[Image]:
    for name, user in {
        "user-uid": "1002",
        "user-username": "www-data",
        "user-uid-group": "1003:users",
        "user-username-group": "www-data:100",
        "predefined-group": "1000",
    }.items():
        yield replace(linux, name=f"{_STAGING}/test-image-{name}:latest", user=user)


def _web_servers(linux: Image) -> Iterator[Image]:
    added = {
        "usr": File(mode=0o40755),
        "usr/sbin": File(mode=0o40755),
        "usr/sbin/nginx": File(_WEB_SERVER, 0o755),
        "srv/index.html": File(b"Welcome to nginx!\n"),
    }
    for name, port in {
        f"{_E2E}/nginx:1.14-2": 80,
        f"{_E2E}/httpd:2.4.39-4": 80,
        f"{_STAGING}/hostnet-nginx-{_MACHINE}:latest": 12003,
    }.items():
        yield replace(
            linux,
            name=name,
            layers=(*linux.layers, images.layer(added)),
            entrypoint=("/usr/sbin/nginx", "master process"),
            cmd=(),
            env=(*linux.env, f"PORT={port}"),
        )
