"""Pins: environments that stay on this node, and what became of each.

    prewarm.environments     in the settings
    prewarm.directory/*      files, one reference a line, # for comments; names that begin with a
                             dot are the volume's own (a ConfigMap has some)
    <root>/pins.json         what the daemon knows of each, for commands and the next daemon

The file is only a memory: without it a pin holds the environment of its reference that was started
last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.model import references
from cri_proxy.model.references import Reference
from cri_proxy.settings.schema import PrewarmSettings, Settings

_LARGEST: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pin:
    """What became of one: the environment that it is, and what is wrong if something is.

    `identity` and `generation` are of the environment that is in place, None before the first one;
    `checked_at` is when FloxHub last said that this is the live one, in seconds of the epoch.
    """

    identity: str | None = None
    generation: int | None = None
    checked_at: float | None = None
    failure: str = ""


def wanted(settings: PrewarmSettings) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """Return the references of settings and directory, each once, and what cannot be read there."""
    found = dict.fromkeys(settings.environments)
    problems = []
    for file in _files(settings.directory):
        try:
            with file.open("rb") as opened:
                text = opened.read(_LARGEST).decode("utf-8", "replace")
        except OSError as error:
            problems.append(f"{file} cannot be read ({error.strerror}): mend it")
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
    """Return what is remembered of pins; nothing when the file is not there or damaged."""
    try:
        records = json.loads((root / "pins.json").read_bytes())
        return {references.parse(name): Pin(**record) for name, record in records.items()}
    except (OSError, ValueError, TypeError, AttributeError, errors.RequestInvalid):
        return {}


def save(root: Path, pins: Mapping[Reference, Pin]) -> None:
    """Remember what became of pins; waits for the disk."""
    records = {str(reference): asdict(pin) for reference, pin in pins.items()}
    durable.write(root / "pins.json", json.dumps(records, indent=1).encode() + b"\n")


def held(settings: Settings) -> dict[Reference, str | None]:
    """Return every pin with the identity that it holds, None where it is not known."""
    known = load(settings.store.root)
    names, _ = wanted(settings.prewarm)
    return {name: known[name].identity if name in known else None for name in names}


def _files(directory: Path) -> Iterable[Path]:
    try:
        listed = sorted(directory.iterdir())
    except OSError:
        return ()
    return [each for each in listed if not each.name.startswith(".") and each.is_file()]
