"""The node's own Nix, where it is not like a store of our own. Never this machine's /nix."""

import os

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Task
from cri_proxy.store import nar, protocol
from cri_proxy.store.nix import jobs, programs, roots
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
    [("nix-store (Nix) 2.3.16", "oldest"), ("what?", "does not tell which Nix")],
)
def test_a_nix_that_is_too_old_or_no_nix_is_refused(made, tmp_path, says, refusal):
    program = tmp_path / "bin" / "nix-store"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)

    with pytest.raises(errors.RequestInvalid, match=refusal):
        made(directory=str(program.parent))[protocol.NIX_RECOVER](None, Task(lambda report: None))


def test_without_nixs_daemon_the_refusal_says_so(options, tmp_path):
    """Only asked, nothing is written: this is where the machine's own Nix would be."""
    nix = NixOptions(NIX_DIRECTORY, "daemon")
    asked = Programs(tmp_path / "nix", options(nix=nix))
    with pytest.raises(errors.SourceUnreachable, match="start nix-daemon"):
        asked.query("--query", "--requisites", paths=["/nix/store/" + "0" * 32 + "-x"])


def test_where_nix_has_no_state_nothing_is_made(tmp_path, pair):
    with pytest.raises(errors.RequestInvalid, match="there is no Nix"):
        roots.Roots(tmp_path / "nix/var/nix").add(pair)

    assert not (tmp_path / "nix").exists()


def test_roots_that_no_environment_needs_go_after_a_while(tmp_path, pair, monkeypatch):
    (tmp_path / "gcroots").mkdir()
    ours = roots.Roots(tmp_path)
    ours.add(pair)
    assert ours.tidy(set()) == []

    monkeypatch.setattr(roots, "GRACE_SECONDS", -1.0)

    assert ours.tidy({pair[0].basename}) == [pair[1].basename]
    assert [each.name for each in ours.directory.iterdir()] == [pair[0].basename]


def test_what_nix_tells_must_be_a_registration():
    with pytest.raises(errors.ContentDamaged):
        jobs.validity_of("/nix/store/" + "0" * 32 + "-x\nno hash\n")


def test_two_processes_never_share_nixs_cache(tmp_path, options):
    ours = Programs(tmp_path / "nix", options())
    with ours._cache(lambda: None) as one, ours._cache(lambda: None) as other:
        assert one != other


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("error: writing to file: No space left on device", errors.NodeExhausted),
        ("error: cannot open connection: Permission denied", errors.RequestInvalid),
        ("error: something new", errors.SourceUnreachable),
    ],
)
def test_a_failure_is_told_as_what_can_be_done_about_it(line, kind):
    assert type(programs.refusal_of([line], 1)) is kind
