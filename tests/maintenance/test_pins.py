"""Pins of settings and drop-in files, and the saved state of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cri_proxy.maintenance import pins
from cri_proxy.maintenance.pins import Pin
from cri_proxy.model.references import Reference
from cri_proxy.settings.schema import PrewarmSettings, Settings, StoreSettings

WEB = Reference("acme", "web")
OTHER = Reference("acme", "other", 7)


def test_settings_and_files_are_joined_each_reference_once(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("acme/web\n\n  acme/other:7 # of last week\n")
    (tmp_path / ".hidden").write_text("acme/hidden\n")
    (tmp_path / "directory").mkdir()

    found, problems = pins.wanted(PrewarmSettings(environments=(WEB,), directory=tmp_path))

    assert (found, problems) == ((WEB, OTHER), ())


def test_a_line_that_is_no_reference_is_reported_with_its_place_and_the_rest_counts(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop").write_text("nonsense\nacme/web\n")

    found, (problem,) = pins.wanted(PrewarmSettings(directory=tmp_path))

    assert found == (WEB,)
    assert f"{tmp_path}/shop, line 1" in problem


def test_no_directory_is_no_pins(tmp_path: Path) -> None:
    assert pins.wanted(PrewarmSettings(directory=tmp_path / "nothing")) == ((), ())


def test_the_state_of_a_pin_is_saved_and_says_what_it_keeps(tmp_path: Path) -> None:
    pins.save(tmp_path, {WEB: Pin("0-acme-web", 3), OTHER: Pin(failure="why")})
    settings = dataclasses.replace(
        Settings(),
        store=StoreSettings(root=tmp_path),
        prewarm=PrewarmSettings(
            environments=(WEB, Reference("acme", "new")), directory=tmp_path / "none"
        ),
    )

    assert pins.load(tmp_path)[WEB] == Pin("0-acme-web", 3)
    assert pins.held(settings) == {WEB: "0-acme-web", Reference("acme", "new"): None}


def test_a_damaged_file_of_states_is_none(tmp_path: Path) -> None:
    (tmp_path / "pins.json").write_text('{"acme/web": {"unknown": 1}}')

    assert pins.load(tmp_path) == {}
