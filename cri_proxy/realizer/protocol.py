"""The realizer's jobs that workers do for the daemon, and the values that these carry.

Both sides import this module; lockfiles and rendering are loaded by workers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.lib.job import NOTHING, Job
from cri_proxy.lib.timings import Timing
from cri_proxy.model.environments import Mode
from cri_proxy.model.storepaths import StorePath


@dataclass(frozen=True, slots=True)
class Ingredients:
    """All that an environment is made from: a resolution and the node's settings.

    `shell` is the store path of the bash for environments that bring none, `certificates` a CA
    bundle of the node for the same case; `has_shell` asks for a shell in any environment.
    """

    resolution: Resolution
    system: str
    mode: Mode
    shell: str | None
    has_shell: bool
    certificates: Path | None


@dataclass(frozen=True, slots=True)
class Requirements:
    """The identity of the environment of some ingredients, and the store paths that it needs.

    `published` are those of the `roots` that come from an organization's own catalog. `advice` says
    of a store path, written in full, which package it is, for refusals.
    """

    identity: str
    roots: tuple[StorePath, ...]
    published: tuple[StorePath, ...]
    advice: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Assembly:
    """Make the environment of some ingredients out of its closure, all of which is present."""

    ingredients: Ingredients
    closure: tuple[StorePath, ...]
    nar_bytes: int


@dataclass(frozen=True, slots=True)
class Assembled:
    """The environment is in place, unless the store path `needs` must be fetched first."""

    timings: list[Timing]
    needs: StorePath | None = None


RECIPE: Final = Job("realizer.recipe", Ingredients, NOTHING, Requirements)
ASSEMBLE: Final = Job("realizer.assemble", Assembly, NOTHING, Assembled)
RECOVER: Final = Job("realizer.recover", NOTHING, NOTHING, NOTHING)
"""Makes the node's directories, and removes from them what is half done."""
