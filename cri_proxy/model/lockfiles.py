"""A lockfile: what an environment's generation consists of, down to store paths.

`floxhub.lockfile` makes these values out of the JSON of a manifest.lock; `floxhub.outputs` decides
which of the store paths a node links, and the realizer fetches and renders those. Only what a node
needs is kept: licenses, descriptions, build recipes and the composer's own manifests are left out.

Nothing here computes; the order of every tuple is the order of the lockfile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cri_proxy.model import storepaths

DEFAULT_PRIORITY = 5


class PackageKind(StrEnum):
    """Where a package was locked from."""

    CATALOG = "catalog"
    FLAKE = "flake"
    STORE_PATH = "store path"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An entry of the manifest's `[install]` section, under one install id.

    `package` is the pkg-path of a catalog package; `outputs` are names, or None when the manifest
    leaves the choice to the package; `takes_all_outputs` is the manifest's `outputs = "all"`;
    `systems` is None when the package is wanted on every system.
    """

    install_id: str
    package: str | None = None
    outputs: tuple[str, ...] | None = None
    takes_all_outputs: bool = False
    systems: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest inside a lockfile, merged with what it includes.

    `links_all` means all outputs of its packages, else it links those that it chooses. `variables`
    are the `[vars]`, names unique, in declared order; their values are shell text for double
    quotes.
    """

    links_all: bool
    install: tuple[Descriptor, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    on_activate: str | None = None
    has_profile: bool = False
    services: tuple[str, ...] = ()
    systems: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """One package, locked for one system; a lower `priority` wins where files clash.

    `outputs_to_install` names each output once; None when the lockfile does not say.
    `is_custom_catalog` marks what its publisher's store holds, not the public caches.
    """

    install_id: str
    name: str
    kind: PackageKind
    system: str
    outputs: Mapping[str, storepaths.StorePath]
    outputs_to_install: tuple[str, ...] | None = None
    priority: int = DEFAULT_PRIORITY
    is_unfree: bool = False
    is_custom_catalog: bool = False


@dataclass(frozen=True, slots=True)
class Lockfile:
    """A whole manifest.lock."""

    manifest: Manifest
    packages: tuple[Package, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkedOutput:
    """A store path to be linked into the environment.

    `priority` is a thousand times the package's and then some (see `floxhub.outputs`): a file of
    the lower one wins. `may_collide` means that a clash at the same priority is allowed: the
    output linked first stays; elsewhere such a clash is refused.
    """

    path: storepaths.StorePath
    priority: int
    install_id: str
    may_collide: bool = False
