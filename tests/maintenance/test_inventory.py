"""The list of environments in place, by what is on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cri_proxy.floxhub.records import PUBLIC, Records
from cri_proxy.maintenance import inventory
from cri_proxy.model.references import Reference
from cri_proxy.settings.schema import Settings, StoreSettings
from cri_proxy.store.disk.local import Store
from cri_proxy.store.disk.views import Views
from tests.maintenance.loops import logged
from tests.store.disk import nodes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(Settings(), store=StoreSettings(root=tmp_path))


@pytest.fixture
def views(tmp_path: Path) -> Views:
    store = Store(tmp_path / "store")
    store.recover()
    return nodes.views_of(tmp_path, store)


def test_environments_are_listed_newest_first(settings: Settings, views: Views) -> None:
    for name, moment in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        nodes.realize(views, name, realized_at=moment)

    found = inventory.environments_of(settings)

    assert [each.reference.name for each in found] == ["new", "middle", "old"]
    assert not any(each.is_stale for each in found)


def test_a_node_without_environments_has_an_empty_list(settings: Settings) -> None:
    assert inventory.environments_of(settings) == []


def test_an_unreadable_environment_is_logged_and_the_others_are_listed(
    settings: Settings, views: Views, caplog: pytest.LogCaptureFixture
) -> None:
    nodes.realize(views, "whole")
    damaged = views.locate(nodes.realize(views, "damaged"))
    (damaged / "environment.json").write_text("{")

    found = inventory.environments_of(settings)

    assert [each.reference.name for each in found] == ["whole"]
    (fields,) = logged(caplog, inventory, "environment unreadable")
    assert fields["place"] == damaged


def test_an_environment_given_while_floxhub_was_unreachable_is_stale(
    settings: Settings, views: Views
) -> None:
    for name in ("fresh", "stale"):
        nodes.realize(views, name)
    records, reference = Records(settings.store.root / "floxhub"), Reference("acme", "stale")
    records.keep_head(reference, PUBLIC, "0" * 40)
    records.mark_stale(reference, PUBLIC, "1" * 64)

    found = inventory.environments_of(settings)

    assert {each.reference.name: each.is_stale for each in found} == {"fresh": False, "stale": True}
