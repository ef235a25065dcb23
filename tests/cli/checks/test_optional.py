import os
from dataclasses import replace

import pytest

from cri_proxy.cli.checks import optional
from cri_proxy.settings import schema
from cri_proxy.store.peers.addresses import Addresses
from hack.testbed.node_nix import VARIABLE, NodeNix


def test_nothing_is_looked_at_that_the_settings_do_not_ask_for():
    assert optional.checks_of(schema.Settings()) == []


@pytest.mark.nix
def test_a_nix_that_answers_is_fine(tmp_path, monkeypatch):
    nix = NodeNix(tmp_path / "nix")
    for name, value in nix.environment.items():
        monkeypatch.setenv(name, value)
    store = schema.StoreSettings(root=tmp_path, kind="nix", nix_remote=nix.remote)
    if VARIABLE in os.environ:
        store = replace(store, nix_directory=os.environ[VARIABLE])
    (check,) = optional.checks_of(schema.Settings(store=store))

    finding = check.look()

    assert finding.status == "ok", finding
    assert str(nix.root) in finding.found


def test_without_nix_the_finding_says_what_to_do(tmp_path):
    store = schema.StoreSettings(root=tmp_path, kind="nix", nix_directory=tmp_path)
    (check,) = optional.checks_of(schema.Settings(store=store))

    assert check.look().status == "fail"
    assert "install Nix" in check.look().found


@pytest.mark.parametrize(
    ("names", "listen", "status"),
    [
        (["127.0.0.1"], "127.0.0.1:9465", "ok"),
        (["127.0.0.1"], "", "ok"),
        (["127.0.0.1"], "127.0.0.2:9465", "warn"),
        (["nowhere.invalid"], "", "warn"),
    ],
)
def test_names_must_lead_to_nodes_and_to_this_one_if_it_serves(names, listen, status):
    found = optional.peers(Addresses(names, listen), is_listening=bool(listen))

    assert found.status == status
