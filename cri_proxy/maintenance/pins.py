"""Pins: environments that stay on this node, and the state of each.

    prewarm.environments     references in the settings
    prewarm.directory/*      files with one reference per line and # comments; dot files belong to
                             the volume (a ConfigMap has some)
    <root>/pins.json         the state of each pin, for commands and the next daemon

The state can be lost: a pin without it keeps the environment of its reference that was started
last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from cri_proxy import errors
from cri_proxy.lib import codec, durable
from cri_proxy.model import references
from cri_proxy.model.references import Reference
from cri_proxy.settings.schema import PrewarmSettings, Settings

_LARGEST: Final = 1024 * 1024


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of one pin; `failure` says why it is not up to date, if it is not.

    `identity` and `generation` are of the environment in place, None before the first one.
    """

    identity: str | None = None
    generation: int | None = None
    failure: str = ""


def wanted(settings: PrewarmSettings) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """Return the references of settings and directory, and what is wrong with some of them."""
    found = dict.fromkeys(settings.environments)
    problems = []
    try:
        listed = sorted(settings.directory.iterdir())
    except OSError:
        listed = []
    for file in listed:
        if file.name.startswith(".") or not file.is_file():
            continue
        try:
            with file.open("rb") as opened:
                text = opened.read(_LARGEST).decode("utf-8", "replace")
        except OSError as error:
            problems.append(f"{file} cannot be read ({error.strerror}): fix it")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            word = line.partition("#")[0].strip()
            try:
                if word:
                    found[references.parse(word)] = None
            except errors.RequestInvalid as error:
                problems.append(f"{file}, line {number}: {error}")
    return tuple(found), tuple(problems)


def load(root: Path) -> dict[Reference, Pin]:
    """Return the saved states; empty if the file is absent or damaged."""
    try:
        records = codec.decode((root / "pins.json").read_bytes(), dict[str, Pin])
        return {references.parse(name): pin for name, pin in records.items()}
    except (OSError, ValueError, errors.RequestInvalid):
        return {}


def save(root: Path, pins: Mapping[Reference, Pin]) -> None:
    """Save the states; waits for the disk."""
    records = {str(reference): pin for reference, pin in pins.items()}
    durable.write(root / "pins.json", codec.encode(records) + b"\n")


def held(settings: Settings) -> dict[Reference, str | None]:
    """Return every pin with the identity that it keeps, None if that is not known."""
    known = load(settings.store.root)
    names, _ = wanted(settings.prewarm)
    return {name: known[name].identity if name in known else None for name in names}
