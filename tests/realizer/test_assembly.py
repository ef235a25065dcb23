"""What FLOX_ENV holds, laid out from real trees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.floxhub import lockfile
from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.model import storepaths
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import assembly, recipes
from cri_proxy.realizer.assembly import Rendered
from cri_proxy.realizer.protocol import Ingredients
from cri_proxy.realizer.trees import Trees
from hack.testbed import environments
from hack.testbed.binary_cache import Executable, Files, write_tree
from hack.testbed.environments import Package

SYSTEM = "x86_64-linux"
REFERENCE = Reference("acme", "web", 3)


class Kitchen:
    """A store on disk and what is rendered from it."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.store.mkdir()
        self._directory = directory

    def package(self, name: str, files: Files) -> Package:
        path = storepaths.of_basename(f"{len(name):032d}-{name}")
        write_tree(self.store / path.basename, files)
        return Package(name, path)

    def render(
        self,
        *packages: Package,
        mode: Mode = Mode.RUN,
        closure: tuple[StorePath, ...] = (),
        certificates: Path | None = None,
        **parts: Any,
    ) -> tuple[recipes.Recipe, Rendered]:
        lock = json.dumps(environments.lockfile(*packages, system=SYSTEM, **parts)).encode()
        file = self._directory / "manifest.lock"
        file.write_bytes(lock)
        ingredients = Ingredients(
            Resolution(REFERENCE, "revision", "digest", file),
            system=SYSTEM,
            mode=mode,
            shell=None,
            has_shell=False,
            certificates=certificates,
        )
        recipe = recipes.of_lockfile(lockfile.parse(lock, "the lockfile"), ingredients, "")
        all_paths = (*(package.path for package in packages), *closure)
        return recipe, assembly.render(recipe, ingredients, all_paths, Trees(self.store))


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def test_the_tree_has_the_packages_the_lockfile_and_the_closure(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    hello = kitchen.package("hello", {"bin/hello": Executable(b"")})
    recipe, rendered = kitchen.render(hello, variables={"A": "b"})

    assembly.write_tree(rendered, tmp_path / "flox-env")

    tree = tmp_path / "flox-env"
    assert (tree / "bin").readlink() == Path(f"{hello.path}/bin")
    assert json.loads((tree / "manifest.lock").read_text())["lockfile-version"] == 1
    assert (tree / "requisites.txt").read_text().split() == sorted(
        [str(hello.path), str(recipe.flox_env)]
    )
    assert (tree / "activate.d" / "envrc").read_text() == 'export A="b"\n'
    assert not (tree / "activate.d" / "hook-on-activate").exists()


def test_what_a_package_puts_in_place_of_our_own_files_gives_way(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    odd = kitchen.package("odd", {"activate": b"theirs", "manifest.lock": b"theirs"})
    _, rendered = kitchen.render(odd)

    assembly.write_tree(rendered, tmp_path / "flox-env")

    assert (tmp_path / "flox-env" / "activate").read_bytes() != b"theirs"


def test_a_shell_of_the_environment_comes_before_any_other(kitchen: Kitchen) -> None:
    bash = kitchen.package("bash", {"bin/bash": Executable(b"")})
    recipe, rendered = kitchen.render(bash, hook="true")

    assert rendered.shell == f"{recipe.flox_env}/bin/bash"


def test_a_shell_anywhere_in_the_closure_will_do(kitchen: Kitchen) -> None:
    hello = kitchen.package("hello", {"bin/hello": Executable(b"")})
    bash = kitchen.package("bash", {"bin/bash": Executable(b"")})

    _, rendered = kitchen.render(hello, hook="true", closure=(bash.path,))

    assert rendered.shell == f"{bash.path}/bin/bash"


def test_without_a_shell_none_is_named(kitchen: Kitchen) -> None:
    _, rendered = kitchen.render(kitchen.package("hello", {"bin/x": b""}), hook="true")

    assert rendered.shell is None


def test_certificates_of_a_package_come_before_the_nodes(kitchen: Kitchen, tmp_path: Path) -> None:
    node = tmp_path / "bundle.pem"
    node.write_text("the node's")
    cacert = kitchen.package("cacert", {"etc/ssl/certs/ca-bundle.crt": b"theirs"})

    recipe, own = kitchen.render(cacert, certificates=node)
    _, given = kitchen.render(certificates=node)
    _, none = kitchen.render()

    assert own.certificates == f"{recipe.flox_env}/etc/ssl/certs/ca-bundle.crt"
    assert given.files["activate.d/ca-bundle.crt"] == b"the node's"
    assert none.certificates is None


def test_propagated_packages_are_linked_behind_those_that_were_asked_for(kitchen: Kitchen) -> None:
    extra = kitchen.package("extra", {"bin/extra": b"", "bin/hello": b"e"})
    built = kitchen.package("built-with", {"include/built.h": b""})
    hello = kitchen.package(
        "hello-package",
        {
            "bin/hello": b"h",
            "nix-support/propagated-user-env-packages": f"{extra.path}\n".encode(),
            "nix-support/propagated-build-inputs": f"{built.path} ".encode(),
        },
    )

    _, run = kitchen.render(hello)
    _, dev = kitchen.render(hello, mode=Mode.DEV)

    assert run.plan.links["bin/hello"] == f"{hello.path}/bin/hello"
    assert run.plan.links["bin/extra"] == f"{extra.path}/bin/extra"
    assert "include" not in run.plan.links
    assert dev.plan.links["include"] == f"{built.path}/include"
