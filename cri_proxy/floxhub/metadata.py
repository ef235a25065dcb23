"""metadata.json: which generations an environment has, and which of them is live.

The file stands at the root of an environment's branch. Version 2 keeps a history whose last entry
names the live generation; version 1 names it outright. Both number generations from 1. Source of
the format: Flox's generations-metadata-v2 schema, and the generations module of its SDK for
version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub import fields
from cri_proxy.model.references import Reference

_LONGEST_NUMBER: Final = 9
_MOST_GENERATIONS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """The live generation, and all that exist in ascending order."""

    live: int
    generations: tuple[int, ...]


def parse(data: bytes, reference: Reference) -> Metadata:
    """Return the metadata in the metadata.json of the reference's environment.

    Raises EnvironmentUnsuitable for a version newer than this program, NotFound for an
    environment without a live generation, ContentDamaged for what follows neither format.
    """
    environment = f"{reference.owner}/{reference.name}"
    root = fields.parse(data, f"metadata.json of {environment}")
    match root.require("version").integer():
        case 1:
            return _of_version_1(root, environment)
        case 2:
            return _of_version_2(root, environment)
        case later if later > 2:
            raise errors.EnvironmentUnsuitable(
                f"{environment} keeps its generations in format {later}, and this cri-proxy knows "
                f"formats 1 and 2: install a newer cri-proxy on the node"
            )
        case _:
            raise root.require("version").wrong("1 or 2")


def generation_of(metadata: Metadata, reference: Reference) -> int:
    """Return the generation that `reference` means; raise NotFound when it does not exist."""
    if reference.generation is None:
        return metadata.live
    if reference.generation not in metadata.generations:
        raise errors.NotFound(
            f"{reference} does not exist on FloxHub, whose generations of "
            f"{reference.owner}/{reference.name} go from {metadata.generations[0]} to "
            f"{metadata.generations[-1]} (live: {metadata.live}): correct the reference"
        )
    return reference.generation


def _of_version_1(root: fields.Field, environment: str) -> Metadata:
    known = root.get("generations")
    numbers = {} if known is None else {_number(key, each): each for key, each in known.members()}
    live = root.get("currentGen")
    if live is None:
        raise _nothing_live(environment)
    return _checked(live, tuple(sorted(numbers)))


def _of_version_2(root: fields.Field, environment: str) -> Metadata:
    history = tuple(root.require("history").items())
    total = root.require("total_generations")
    if not 0 <= total.integer() <= _MOST_GENERATIONS:
        raise total.wrong("a number of generations")
    if not history:
        raise _nothing_live(environment)
    return _checked(history[-1].require("current_generation"), tuple(range(1, total.integer() + 1)))


def _checked(live: fields.Field, generations: tuple[int, ...]) -> Metadata:
    number = _number(live.text(), live)
    if number not in generations:
        raise live.wrong("one of the generations that exist")
    return Metadata(number, generations)


def _number(text: str, field: fields.Field) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER) or text[0] == "0":
        raise field.wrong("numbered with a generation from 1")
    return int(text)


def _nothing_live(environment: str) -> errors.NotFound:
    return errors.NotFound(
        f"{environment} has no generation on FloxHub yet: push the environment with `flox push`"
    )
