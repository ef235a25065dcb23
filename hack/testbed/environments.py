"""Environments for tests: store paths with static programs of this machine, and their lockfiles.

    tools     busybox and all its applets in bin/, including httpd and sh
    bash      bash, for environments with a hook
    package   any files, for example a web page and the script that serves it

A static program has no dependencies, so a pod with an empty image and one of these proves that
everything it runs comes from the environment. Packages are locked as catalog packages.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_proxy.model import systems
from cri_proxy.model.storepaths import StorePath
from hack.testbed import images
from hack.testbed.binary_cache import Executable, Files, Publisher, Symlink

_BASH = Path("/bin/bash-static")


@dataclass(frozen=True, slots=True)
class Package:
    """A published package, as `flox install` would add it to a manifest.

    `catalog` is the organization whose catalog it comes from; None for Flox's.
    """

    install_id: str
    path: StorePath
    priority: int = 5
    catalog: str | None = None

    @property
    def pkg_path(self) -> str:
        """Its name in the manifest."""
        return f"{self.catalog}/{self.install_id}" if self.catalog else self.install_id


@dataclass(frozen=True, slots=True)
class Published:
    """The packages that most environments use, published once for many tests."""

    publisher: Publisher
    tools: Package
    bash: Package

    def package(self, name: str, files: Files) -> Package:
        """Publish another package."""
        return package(self.publisher, name, files)


def published(directory: Path) -> Published:
    """Publish tools and bash in a new binary cache in `directory`."""
    publisher = Publisher(directory)
    return Published(publisher, tools(publisher), bash(publisher))


def tools(publisher: Publisher) -> Package:
    """Publish busybox under its own name and the names of its applets."""
    return Package("tools", publisher.add("busybox-static", tools_files()))


def tools_files() -> Files:
    """Return the files of the tools."""
    busybox = images.static_busybox()
    if busybox is None:
        raise FileNotFoundError("a statically linked busybox: install busybox-static")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = {f"bin/{name}": Symlink("busybox") for name in listed.stdout.split()}
    return {**applets, "bin/busybox": Executable(busybox.read_bytes())}


def bash(publisher: Publisher) -> Package:
    """Publish a static bash."""
    return Package(
        "bash", publisher.add("bash-static", {"bin/bash": Executable(_BASH.read_bytes())})
    )


def package(
    publisher: Publisher, name: str, files: Files, references: Sequence[StorePath] = ()
) -> Package:
    """Publish `files` under `name`."""
    return Package(name, publisher.add(name, files, references))


def lockfile(
    *packages: Package,
    variables: Mapping[str, str] | None = None,
    hook: str | None = None,
    profile: str | None = None,
    services: Mapping[str, str] | None = None,
    system: str | None = None,
    schema: str | None = "1.14.0",
) -> dict[str, Any]:
    """Return a lockfile of `packages` as Flox writes it; without `schema`, the older format.

    `profile` is its `common` script, `services` name → command.
    """
    system = system or systems.of_node()
    manifest: dict[str, Any] = {"schema-version": schema} if schema else {"version": 1}
    manifest["install"] = {each.install_id: {"pkg-path": each.pkg_path} for each in packages}
    if variables:
        manifest["vars"] = dict(variables)
    if hook is not None:
        manifest["hook"] = {"on-activate": hook}
    if profile is not None:
        manifest["profile"] = {"common": profile}
    if services:
        manifest["services"] = {name: {"command": text} for name, text in services.items()}
    manifest["options"] = {"systems": [system]}
    return {
        "lockfile-version": 1,
        "manifest": manifest,
        "packages": [_locked(each, system) for each in packages],
    }


def _locked(each: Package, system: str) -> dict[str, Any]:
    """Return a package's entry in a lockfile; fields that nodes do not read have dummy values."""
    revision = hashlib.sha1(str(each.path).encode()).hexdigest()
    return {
        "attr_path": each.install_id,
        "broken": False,
        "derivation": f"{each.path}.drv",
        "description": each.install_id,
        "install_id": each.install_id,
        "license": "MIT",
        "locked_url": f"https://github.com/flox/nixpkgs?rev={revision}",
        "name": each.path.name,
        "pname": each.install_id,
        "rev": revision,
        "rev_count": 1,
        "rev_date": "2026-01-01T00:00:00Z",
        "scrape_date": "2026-01-01T00:00:00Z",
        "stabilities": ["unstable"],
        "unfree": False,
        "version": "1",
        "outputs_to_install": ["out"],
        "outputs": {"out": str(each.path)},
        "system": system,
        "group": "toplevel",
        "priority": each.priority,
    }
