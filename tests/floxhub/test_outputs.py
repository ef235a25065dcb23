"""What of a lockfile belongs on a node."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.floxhub import lockfile, outputs
from cri_proxy.model.lockfiles import (
    Descriptor,
    Lockfile,
    Manifest,
    Package,
    PackageKind,
)
from cri_proxy.model.storepaths import StorePath

LOCKFILES = Path(__file__).parents[1] / "data" / "lockfiles"
LINUX = "x86_64-linux"


def load(name: str) -> Lockfile:
    return lockfile.parse((LOCKFILES / f"{name}.lock").read_bytes(), f"{name}.lock")


def linked(lock: Lockfile) -> list[tuple[str, int]]:
    return [(each.path.name, each.priority) for each in outputs.linked_outputs(lock, LINUX)]


def installing(descriptor: Descriptor, outputs_to_install: tuple[str, ...] | None) -> Lockfile:
    package = Package(
        install_id=descriptor.install_id,
        name="tool-1",
        kind=PackageKind.FLAKE,
        system=LINUX,
        outputs={name: StorePath("a" * 32, f"tool-{name}") for name in ("stubs", "out", "man")},
        outputs_to_install=outputs_to_install,
    )
    return Lockfile(Manifest(links_all=False, install=(descriptor,)), (package,))


def test_version_1_links_all_but_stubs_and_those_not_to_install_on_steps_of_their_own() -> None:
    lock = load("outputs_version_1")

    assert [(each.path.name, each.priority, each.may_collide) for each in
            outputs.linked_outputs(lock, LINUX)] == [
        ("cudart-12-lib", 5000, False),
        ("cudart-12", 5000, False),
        ("cudart-12-dev", 5001, True),
        ("cudart-12-static", 5002, True),
        ("tool-1", 7000, False),
        ("tool-1-man", 7003, True),
    ]  # fmt: skip


def test_all_outputs_are_linked_when_the_descriptor_says_so_those_to_install_first() -> None:
    assert linked(load("bash")) == [
        ("bash-5.3p15-man", 5000),
        ("bash-5.3p15", 5001),
        ("bash-5.3p15-debug", 5002),
        ("bash-5.3p15-dev", 5003),
        ("bash-5.3p15-doc", 5004),
        ("bash-5.3p15-info", 5005),
    ]


def test_listed_outputs_are_linked_and_else_those_to_install() -> None:
    assert linked(load("mixed")) == [
        ("app-2.0", 3000),
        ("coreutils-9.5", 5000),
        ("coreutils-9.5-info", 5001),
        ("python3.12-pip-24.0", 5000),
        ("python3.12-pip-24.0-man", 5001),
        ("tool-0.1", 5000),
        ("pinned-1.0", 6000),
    ]


def test_a_package_that_does_not_say_what_to_install_has_all_but_stubs_linked() -> None:
    assert linked(installing(Descriptor("tool"), None)) == [("tool-man", 5000), ("tool-out", 5001)]


def test_an_output_that_the_package_lacks_is_refused_with_those_it_has() -> None:
    lock = installing(Descriptor("tool", outputs=("out", "lib")), ("out",))

    with pytest.raises(
        errors.EnvironmentUnsuitable, match="tool has no output 'lib', only man, out, stubs"
    ):
        outputs.linked_outputs(lock, LINUX)


def test_a_package_that_the_manifest_does_not_install_is_damage() -> None:
    lock = load("mixed")
    orphaned = dataclasses.replace(lock, manifest=dataclasses.replace(lock.manifest, install=()))

    with pytest.raises(errors.ContentDamaged, match="the package app, which its manifest"):
        outputs.linked_outputs(orphaned, LINUX)


def test_only_packages_of_the_system_are_linked() -> None:
    lock = load("hello_as_greeting")

    (output,) = outputs.linked_outputs(lock, "aarch64-linux")

    assert str(output.path) == "/nix/store/qpp9968dpkv1c755nk13mrkrzpsvah18-hello-2.12.3"
    assert output.install_id == "greeting"
    assert outputs.linked_outputs(lock, "riscv64-linux") == ()


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("bash", "x86_64-linux"),
        ("bash", "aarch64-linux"),
        ("hello_as_greeting", "x86_64-linux"),
        ("on-activate", "x86_64-linux"),
        ("vars_order", "aarch64-linux"),
        ("mixed", "x86_64-linux"),
    ],
)
def test_an_environment_suits_the_systems_it_is_locked_for(name: str, system: str) -> None:
    outputs.suits(load(name), system)


def test_a_system_that_the_manifest_does_not_list_is_refused() -> None:
    with pytest.raises(
        errors.EnvironmentUnsuitable,
        match="only for aarch64-linux, x86_64-linux, and this node is riscv64-linux",
    ):
        outputs.suits(load("mixed"), "riscv64-linux")


def test_a_package_not_locked_for_the_system_is_refused_by_name() -> None:
    with pytest.raises(errors.EnvironmentUnsuitable, match="bash is not locked for x86_64-darwin"):
        outputs.suits(load("bash"), "x86_64-darwin")
    with pytest.raises(
        errors.EnvironmentUnsuitable, match="app, tools, plain, from-flake, pinned is not locked"
    ):
        outputs.suits(load("mixed"), "aarch64-linux")


def test_a_package_for_other_systems_only_need_not_be_locked() -> None:
    descriptor = Descriptor("mac", systems=("x86_64-darwin",))
    lock = Lockfile(Manifest(links_all=True, install=(descriptor,)))

    outputs.suits(lock, LINUX)


def test_an_empty_environment_suits_every_system() -> None:
    outputs.suits(Lockfile(Manifest(links_all=True)), "riscv64-linux")
