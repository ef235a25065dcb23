"""Kubernetes' own programs and etcd: built and fetched once, and kept outside the tree.

    ${XDG_CACHE_HOME:-~/.cache}/cri-proxy/
        kubernetes/<version>/      kubelet, kube-apiserver, …: built from the Go module pinned in
                                   go.mod and go.sum beside this file
        etcd/                      Debian's etcd-server, unpacked: nothing is installed or started

A program is written completely or not at all. Building needs Go and takes many minutes of two
cores, once.

    python -m hack.cluster.programs             build and fetch missing programs
    python -m hack.cluster.programs --missing   list missing programs, one per line
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

BUILT: Final = (
    "kubelet",
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
)
_MODULE: Final = Path(__file__).parent
_ETCD_PACKAGE: Final = "etcd-server"
_OLDEST_GO: Final = (1, 24)


class Unavailable(Exception):
    """A program is missing and cannot be built; the message says what to do."""


def version() -> str:
    """Return the version of Kubernetes pinned in go.mod, for example v1.34.4."""
    match = re.search(r"k8s\.io/kubernetes (v\S+)", (_MODULE / "go.mod").read_text())
    assert match is not None, "go.mod requires k8s.io/kubernetes"
    return match[1]


def path_of(name: str) -> Path:
    """Return the path of a program, which `provide` creates."""
    if name == "etcd":
        installed = shutil.which("etcd")
        return Path(installed) if installed else _cache() / "etcd" / "usr/bin/etcd"
    return _cache() / "kubernetes" / version() / name


def missing() -> list[str]:
    """Return the names of the missing programs."""
    return [name for name in (*BUILT, "etcd") if not os.access(path_of(name), os.X_OK)]


def provide() -> None:
    """Build and fetch missing programs, with progress on standard error."""
    for name in missing():
        began = time.monotonic()
        if name == "etcd":
            _fetch_etcd()
        else:
            _build(name)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def lacks() -> list[str]:
    """Return what this machine lacks for `provide`, as phrases for a message."""
    wanted = missing()
    found = []
    if set(wanted) & set(BUILT) and _go_version() < _OLDEST_GO:
        found.append(f"Go {'.'.join(map(str, _OLDEST_GO))} or newer, to build Kubernetes")
    if "etcd" in wanted and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        found.append("the program etcd, or apt to fetch it")
    return found


def _build(name: str) -> None:
    place = path_of(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    number = version()
    major, minor, _ = number.removeprefix("v").split(".", 2)
    known = {"gitVersion": number, "gitMajor": major, "gitMinor": minor}
    flags = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in known.items()]
    staged = place.with_name(f".{name}.{os.getpid()}")
    try:
        _run(
            [
                *("nice", "-n", "19", "go", "build", "-p", "2", "-trimpath"),
                *("-ldflags", " ".join(["-s -w", *flags])),
                *("-o", str(staged), f"k8s.io/kubernetes/cmd/{name}"),
            ],
            f"{name} could not be built",
            cwd=_MODULE,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
        )
        staged.rename(place)
    finally:
        staged.unlink(missing_ok=True)


def _fetch_etcd() -> None:
    place = _cache() / "etcd"
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".etcd.") as stage:
        what = f"Debian's package {_ETCD_PACKAGE} could not be fetched"
        try:
            _run(["apt-get", "download", _ETCD_PACKAGE], what, cwd=Path(stage))
        except Unavailable:  # the package lists may be outdated or missing
            _run(["apt-get", "update"], what, cwd=Path(stage))
            _run(["apt-get", "download", _ETCD_PACKAGE], what, cwd=Path(stage))
        (package,) = Path(stage).glob("*.deb")
        _run(["dpkg-deb", "-x", package.name, "root"], what, cwd=Path(stage))
        shutil.rmtree(place, ignore_errors=True)
        (Path(stage) / "root").rename(place)


def _run(argv: list[str], what: str, *, cwd: Path, env: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"{what}: the program {error.filename} is missing") from error
    if done.returncode != 0:
        raise Unavailable(f"{what}: {argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


def _go_version() -> tuple[int, ...]:
    try:
        printed = subprocess.run(
            ["go", "env", "GOVERSION"], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        return (0,)
    match = re.match(r"go(\d+)\.(\d+)", printed)
    return (int(match[1]), int(match[2])) if match else (0,)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "cri-proxy"


def main() -> int:
    """Provide missing programs, or list them."""
    if "--missing" in sys.argv[1:]:
        print("".join(f"{name}\n" for name in missing()), end="")
        return 0
    try:
        provide()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
