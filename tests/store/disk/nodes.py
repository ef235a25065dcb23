"""A node's disk as tests of the store and its maintenance fill it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cri_proxy.lib import durable
from cri_proxy.model import environments, references, storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar
from cri_proxy.store.disk import staging
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from hack.testbed.binary_cache import Publisher

FLOX_ENV = storepaths.of_basename("7ik8057hajl6vq9j40h3jracxjn0bb5x-environment-run")


class GivenUp(Exception):
    """Raised by `give_up`."""


def never() -> None:
    """A `check` that lets the caller wait."""


def give_up() -> None:
    """A `check` that ends the waiting."""
    raise GivenUp


def remove(store: Store, paths: Iterable[StorePath]) -> list[StorePath]:
    """Remove paths as garbage collections do, except locked ones; return the removed ones."""
    gone = [path for path in paths if store.evict(path, unused_since=math.inf)]
    durable.remove_tree(store.directory / staging.GARBAGE)
    return gone


def names_in(directory: Path) -> list[str]:
    """Return the names of a directory's entries, sorted."""
    return sorted(each.name for each in directory.iterdir())


def commit(
    store: Store, publisher: Publisher, path: StorePath, *, check: Callable[[], None] = never
) -> StorePath:
    """Commit a published path, of an uncompressed archive, as a worker that fetched it does."""
    info = publisher.narinfo(path)
    with store.stage(path, check) as stage:
        with stage.tree(info.nar_size) as tree, publisher.archive_file(path).open("rb") as archive:
            nar.unpack(
                archive, tree, nar_size=info.nar_size, nar_hash=info.nar_hash, label=str(path)
            )
        stage.commit(info)
    return path


def views_of(root: Path, store: Store) -> Views:
    """Return the environments below a node's root, ready for use."""
    views = Views(root / "environments", store)
    views.recover()
    return views


def realize(views: Views, name: str, *paths: StorePath, realized_at: float | None = None) -> str:
    """Commit the environment `acme/<name>:1` of some paths; return its identity."""
    identity = f"0-acme-{name}"
    with views.stage(identity, never) as stage:
        stage.link(paths)
        (stage.store / FLOX_ENV.basename).mkdir()
        environment = Environment(
            identity=identity,
            reference=references.parse(f"acme/{name}:1"),
            revision="0" * 40,
            lock_digest="1" * 64,
            system="x86_64-linux",
            mode=Mode.RUN,
            flox_env=FLOX_ENV,
            shell=None,
            variables=(),
            closure=tuple(sorted({*paths, FLOX_ENV})),
            nar_bytes=1,
            realized_at=time.time() if realized_at is None else realized_at,
            store=views.locate(identity) / "store",
        )
        (stage.directory / "environment.json").write_text(
            json.dumps(environments.to_json(environment))
        )
        stage.commit()
    return identity


def call_as_ordinary_user(tmp_path: Path, module: str, function: str) -> None:
    """Call a test module's function without root's privileges, with a directory of that user."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    for parent in list(home.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    program = (
        "import os, pathlib, sys; sys.path.insert(0, sys.argv[2]);"
        f"from hack.testbed import binary_cache; from tests.store.disk import {module};"
        "os.geteuid() or os.setuid(65534);"
        f"{module}.{function}(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, home, Path.cwd()], check=True)
