"""An environment of FloxHub as it is realized on this node and given to pods.

`Environment` is what `environment.json` beside a view records and what the interposer adds to a
container: one directory to mount at /nix/store, one FLOX_ENV in it, the variables that are the same
for every container, and the command prefix when something must run first. It is written once, when
the view is committed, and never changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cri_proxy import errors
from cri_proxy.model import references, storepaths
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath

FORMAT: Final = 1


class Mode(StrEnum):
    """How an environment is activated: to run programs, or to build with it as well."""

    RUN = "run"
    DEV = "dev"


@dataclass(frozen=True, slots=True)
class Environment:
    """A realized environment.

    `reference` is pinned to the generation that was resolved; `store` is the node's directory that
    a container sees as /nix/store; `closure` lists everything in it, FLOX_ENV included, sorted.
    `variables` are the `[vars]` whose values need no shell. `shell` is the bash that runs the
    activation, None when nothing has to run before the program. `services` and `has_profile` are
    parts of its manifest that no container runs. `mounted` are the node's store paths that could
    not be linked into the view and are mounted into it one by one; most environments have none.
    """

    identity: str
    reference: Reference
    revision: str
    lock_digest: str
    system: str
    mode: Mode
    flox_env: StorePath
    shell: str | None
    variables: tuple[tuple[str, str], ...]
    closure: tuple[StorePath, ...]
    nar_bytes: int
    realized_at: float
    store: Path
    services: tuple[str, ...] = ()
    has_profile: bool = False
    certificates: str | None = None
    locale_archive: str | None = None
    is_stale: bool = False
    mounted: tuple[Path, ...] = ()

    @property
    def mounts(self) -> Mapping[str, Path]:
        """The mounts of a container: the view, and in it the paths that could not be linked."""
        inner = {f"{storepaths.STORE}/{each.name}": each for each in self.mounted}
        return {storepaths.STORE: self.store, **inner}

    @property
    def is_in_place(self) -> bool:
        """Return whether everything that a container gets mounted is on the node."""
        view = self.store / self.flox_env.basename
        return view.is_dir() and all(os.path.lexists(each) for each in self.mounted)

    @property
    def is_static(self) -> bool:
        """Return whether its variables suffice, so that no activation runs before the program."""
        return self.shell is None

    def resolved_as(self, reference: Reference, revision: str, *, is_stale: bool) -> Environment:
        """Return the same environment under the reference of another resolution."""
        return replace(self, reference=reference, revision=revision, is_stale=is_stale)


def to_json(environment: Environment) -> dict[str, Any]:
    """Return what `environment.json` holds; the view's own place is not written into it."""
    return {
        "format": FORMAT,
        "identity": environment.identity,
        "reference": str(environment.reference),
        "revision": environment.revision,
        "lockDigest": environment.lock_digest,
        "system": environment.system,
        "mode": str(environment.mode),
        "floxEnv": str(environment.flox_env),
        "shell": environment.shell,
        "variables": [list(pair) for pair in environment.variables],
        "closure": [path.basename for path in environment.closure],
        "narBytes": environment.nar_bytes,
        "realizedAt": environment.realized_at,
        "services": list(environment.services),
        "hasProfile": environment.has_profile,
        "certificates": environment.certificates,
        "localeArchive": environment.locale_archive,
        "mounted": [str(each) for each in environment.mounted],
    }


def of_json(record: dict[str, Any], store: Path) -> Environment:
    """Return the environment that `to_json` described; raise ContentDamaged when it is none."""
    try:
        if record["format"] != FORMAT:
            raise errors.ContentDamaged(
                f"{store.parent} was written in format {record['format']}, this version reads "
                f"{FORMAT}: remove the directory, it is realized again when a pod asks for it"
            )
        return Environment(
            identity=record["identity"],
            reference=references.parse(record["reference"]),
            revision=record["revision"],
            lock_digest=record["lockDigest"],
            system=record["system"],
            mode=Mode(record["mode"]),
            flox_env=storepaths.parse(record["floxEnv"]),
            shell=record["shell"],
            variables=tuple((name, value) for name, value in record["variables"]),
            closure=tuple(storepaths.of_basename(name) for name in record["closure"]),
            nar_bytes=record["narBytes"],
            realized_at=record["realizedAt"],
            services=tuple(record.get("services", ())),
            has_profile=record.get("hasProfile", False),
            certificates=record["certificates"],
            locale_archive=record["localeArchive"],
            store=store,
            mounted=tuple(Path(each) for each in record.get("mounted", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, errors.RequestInvalid) as error:
        raise errors.ContentDamaged(
            f"{store.parent}/environment.json cannot be read ({error}): remove the directory, "
            "it is realized again when a pod asks for it"
        ) from error


def load(directory: Path) -> Environment | None:
    """Return the environment in place at `directory` (`…/environments/<identity>`), None if absent.

    Raises ContentDamaged when its record cannot be read.
    """
    try:
        text = (directory / "environment.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    return of_json(record, directory / "store")
