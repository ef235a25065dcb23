"""The node's own Nix, where it is not like a store of our own. Never this machine's /nix."""

import os

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Task
from cri_proxy.store import nar, protocol
from cri_proxy.store.nix import jobs
from cri_proxy.store.nix.programs import Programs
from cri_proxy.store.protocol import NixOptions, NixProgress
from hack.testbed.binary_cache import Executable
from hack.testbed.node_nix import VARIABLE, NodeNix

pytestmark = pytest.mark.nix
NIX_DIRECTORY = os.environ.get(VARIABLE, "")


@pytest.fixture
def node_nix(tmp_path, monkeypatch):
    nix = NodeNix(tmp_path / "node-nix")
    for name, value in nix.environment.items():
        monkeypatch.setenv(name, value)
    return nix


@pytest.fixture
def made(options, node_nix, tmp_path):
    """Makes the jobs of a worker."""

    def make(directory=NIX_DIRECTORY):
        nix = NixOptions(directory, node_nix.remote)
        root = tmp_path / "node"
        return jobs.jobs(root, Programs(root / "nix", options(nix=nix)))

    return make


@pytest.fixture
def pair(publisher):
    base = publisher.add("base", {"lib/base": b"b" * 5000})
    return base, publisher.add("top", {"bin/top": Executable(b"#!/bin/sh\n")}, [base])


def realise(made, path):
    """Run the job; return what it reported, and the facts."""
    told = []
    return told, made[protocol.NIX_REALISE]([path.basename], Task(told.append))


def test_what_is_realised_survives_nixs_collector(made, pair, node_nix):
    realise(made(), pair[1])
    node_nix.run("--gc")

    assert all(node_nix.physical(each).exists() for each in pair)


def test_the_root_is_there_before_the_path(made, pair, publisher, node_nix):
    publisher.remove(pair[0])
    with pytest.raises(errors.NotFound):
        realise(made(), pair[1])

    assert (node_nix.roots / pair[1].basename).readlink() == type(node_nix.root)(str(pair[1]))


def test_what_is_fetched_is_reported(made, pair):
    told, _ = realise(made(), pair[1])

    assert NixProgress(total=2) in told
    assert NixProgress(copied=2) in told


def test_a_path_that_was_altered_behind_nixs_back_is_repaired(
    made, pair, publisher, node_nix, tmp_path
):
    realise(made(), pair[0])
    place = node_nix.physical(pair[0])
    (place / "lib/base").chmod(0o644)
    (place / "lib/base").write_bytes(b"x" * 5000)

    for mark in (tmp_path / "node/nix/verified").iterdir():  # nothing has been compared yet
        mark.unlink()
    realise(made(), pair[1])

    assert nar.digest_of(place)[0] == publisher.narinfo(pair[0]).nar_hash


def test_a_path_that_vanished_behind_nixs_back_is_repaired(made, pair, publisher, node_nix):
    ours = made()
    realise(ours, pair[1])
    place = node_nix.physical(pair[0])
    place.rename(place.with_name("elsewhere"))

    realise(ours, pair[1])

    assert nar.digest_of(place)[0] == publisher.narinfo(pair[0]).nar_hash


def test_damage_that_cannot_be_repaired_is_told(made, pair, publisher, node_nix):
    ours = made()
    realise(ours, pair[1])
    place = node_nix.physical(pair[0])
    place.rename(place.with_name("elsewhere"))
    publisher.archive_file(pair[0]).unlink()
    publisher.remove(pair[0])

    with pytest.raises(errors.ContentDamaged, match="nix-store --verify"):
        realise(ours, pair[1])


def test_without_nix_the_refusal_says_what_to_do(made, tmp_path):
    with pytest.raises(errors.RequestInvalid, match=r'set store\.kind to "own"'):
        made(directory=str(tmp_path))[protocol.NIX_RECOVER](None, Task(lambda report: None))


@pytest.mark.parametrize(
    ("says", "refusal"),
    [("nix-store (Nix) 2.3.16", "oldest"), ("what?", "does not say which Nix")],
)
def test_a_nix_that_is_too_old_or_no_nix_is_refused(made, tmp_path, says, refusal):
    program = tmp_path / "bin" / "nix-store"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)

    with pytest.raises(errors.RequestInvalid, match=refusal):
        made(directory=str(program.parent))[protocol.NIX_RECOVER](None, Task(lambda report: None))


def test_what_nix_tells_must_be_a_registration():
    with pytest.raises(errors.ContentDamaged):
        jobs.validity_of("/nix/store/" + "0" * 32 + "-x\nno hash\n")
