"""The realizer's jobs: a recipe of a lockfile on disk, and an environment out of a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cri_proxy import errors
from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.model import environments as records
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.realizer import jobs, protocol
from cri_proxy.realizer.protocol import Assembly, Ingredients
from cri_proxy.store import nar
from cri_proxy.store.disk.local import Store
from hack.testbed import environments
from hack.testbed.binary_cache import Executable, Publisher
from hack.testbed.environments import Package

SYSTEM = "x86_64-linux"
WEB = Reference("acme", "web", 3)
TASK = Task[None](lambda report: None)
Put = Callable[..., Package]


@pytest.fixture
def made(tmp_path: Path) -> Jobs:
    """The jobs of a node whose directories exist."""
    made = jobs.jobs(tmp_path / "node")
    made[protocol.RECOVER](None, TASK)
    return made


@pytest.fixture
def put(tmp_path: Path, made: Jobs) -> Put:
    """Puts a package with one program into the node's store."""
    publisher = Publisher(tmp_path / "cache")
    publisher.compression = "none"
    store = Store(tmp_path / "node" / "store")

    def put_package(name: str) -> Package:
        path = publisher.add(name, {f"bin/{name}": Executable(name.encode())})
        info = publisher.narinfo(path)
        with store.stage(path, lambda: None) as stage:
            with stage.tree(0) as place, publisher.archive_file(path).open("rb") as archive:
                nar.unpack(
                    archive, place, nar_size=info.nar_size, nar_hash=info.nar_hash, label=name
                )
            stage.commit(info)
        return Package(name, path)

    return put_package


def ingredients_of(directory: Path, *packages: Package, **parts: Any) -> Ingredients:
    """Return the ingredients for a lockfile that is written into a directory."""
    file = directory / "manifest.lock"
    file.write_text(json.dumps(environments.lockfile(*packages, system=SYSTEM, **parts)))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Ingredients(
        Resolution(WEB, "0" * 40, digest, file),
        system=SYSTEM,
        mode=Mode.RUN,
        shell=None,
        has_shell=False,
        certificates=None,
    )


def test_recipe_says_what_an_environment_needs(made: Jobs, put: Put, tmp_path: Path) -> None:
    hello, app = put("hello"), replace(put("app"), catalog="acme")

    required = made[protocol.RECIPE](ingredients_of(tmp_path, hello, app), TASK)

    assert required.identity.endswith("-acme-web")
    assert required.roots == (hello.path, app.path)
    assert required.published == (app.path,)
    assert required.advice.keys() == {str(hello.path), str(app.path)}


def test_certificates_of_the_node_make_it_another_environment(
    made: Jobs, put: Put, tmp_path: Path
) -> None:
    without = ingredients_of(tmp_path, put("hello"))
    bundle = tmp_path / "bundle.crt"
    identities = {made[protocol.RECIPE](without, TASK).identity}
    for content in (b"one", b"two"):
        bundle.write_bytes(content)
        with_bundle = replace(without, certificates=bundle)
        identities.add(made[protocol.RECIPE](with_bundle, TASK).identity)

    assert len(identities) == 3


def test_assembled_environment_is_in_place_with_its_record(
    made: Jobs, put: Put, tmp_path: Path
) -> None:
    hello = put("hello")
    ingredients = ingredients_of(tmp_path, hello)
    identity = made[protocol.RECIPE](ingredients, TASK).identity

    assembled = made[protocol.ASSEMBLE](Assembly(ingredients, (hello.path,), 7), TASK)

    record = records.load(tmp_path / "node" / "environments" / identity)
    assert assembled.needs is None
    assert [name for name, _, _ in assembled.timings] == [
        "realizer.render",
        "store.link",
        "store.commit",
    ]
    assert record is not None
    assert (record.reference, record.nar_bytes, record.is_in_place) == (WEB, 7, True)
    assert (record.store / hello.path.basename / "bin" / "hello").read_bytes() == b"hello"


def test_assembling_again_changes_nothing(made: Jobs, put: Put, tmp_path: Path) -> None:
    hello = put("hello")
    argument = Assembly(ingredients_of(tmp_path, hello), (hello.path,), 7)
    made[protocol.ASSEMBLE](argument, TASK)
    (file,) = (tmp_path / "node" / "environments").glob("*-acme-web/environment.json")
    before = file.stat()
    again = made[protocol.ASSEMBLE](argument, TASK)

    assert [name for name, _, _ in again.timings] == ["realizer.render"]
    assert file.stat().st_ino == before.st_ino


def test_shell_that_is_missing_is_asked_for(made: Jobs, put: Put, tmp_path: Path) -> None:
    hello, bash = put("hello"), put("bash")
    ingredients = replace(ingredients_of(tmp_path, hello, hook="echo up"), shell=str(bash.path))

    first = made[protocol.ASSEMBLE](Assembly(ingredients, (hello.path,), 7), TASK)
    closure = (hello.path, bash.path)
    second = made[protocol.ASSEMBLE](Assembly(ingredients, closure, 14), TASK)

    assert first.needs == bash.path
    assert second.needs is None


def test_shell_without_a_bash_is_refused(made: Jobs, put: Put, tmp_path: Path) -> None:
    hello, other = put("hello"), put("other")
    ingredients = replace(ingredients_of(tmp_path, hello, hook="echo up"), shell=str(other.path))

    with pytest.raises(errors.EnvironmentUnsuitable, match="which has no bin/bash"):
        made[protocol.ASSEMBLE](Assembly(ingredients, (hello.path, other.path), 7), TASK)


def test_store_of_another_program_is_mounted_where_it_cannot_be_linked(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Nix's store is on another file system."""
    hello = put("hello")
    foreign = jobs.jobs(tmp_path / "other", tmp_path / "node" / "store", is_own=False)
    foreign[protocol.RECOVER](None, TASK)
    monkeypatch.setattr("cri_proxy.store.disk.views.ViewStage.can_link", lambda *_: False)
    ingredients = ingredients_of(tmp_path, hello)
    foreign[protocol.ASSEMBLE](Assembly(ingredients, (hello.path,), 7), TASK)

    (place,) = (tmp_path / "other" / "environments").glob("*-acme-web")
    record = records.load(place)
    assert record is not None
    assert record.mounted == (tmp_path / "node" / "store" / hello.path.basename,)
