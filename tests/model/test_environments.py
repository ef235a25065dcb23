"""The record of an environment on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.model import environments, storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference

PATH = storepaths.of_basename("0" * 32 + "-environment-run")


def environment_at(directory: Path) -> Environment:
    return Environment(
        identity="0-acme-web",
        reference=Reference("acme", "web", 3),
        revision="r",
        lock_digest="d",
        system="x86_64-linux",
        mode=Mode.DEV,
        flox_env=PATH,
        shell="/nix/store/x/bin/bash",
        variables=(("A", "b\n$"),),
        closure=(PATH,),
        nar_bytes=7,
        realized_at=1.5,
        store=directory / "store",
        services=("db",),
        has_profile=True,
        certificates="/nix/store/x/ca.crt",
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    environment = environment_at(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps(environments.to_json(environment)))

    assert environments.load(tmp_path) == environment


def test_what_is_mounted_into_the_view_survives_the_record(tmp_path: Path) -> None:
    place = tmp_path / "nix" / f"{'1' * 32}-bash"
    environment = replace(environment_at(tmp_path), mounted=(place,))
    (tmp_path / "environment.json").write_text(json.dumps(environments.to_json(environment)))

    assert environments.load(tmp_path) == environment
    assert environment.mounts[f"/nix/store/{place.name}"] == place
    assert not environment.is_in_place


def test_an_absent_environment_is_none(tmp_path: Path) -> None:
    assert environments.load(tmp_path / "absent") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format": 1}', '{"format": 99}'])
def test_a_record_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "environment.json").write_text(text)

    with pytest.raises(errors.ContentDamaged, match="remove the directory") as refusal:
        environments.load(tmp_path)

    assert str(tmp_path) in str(refusal.value)
