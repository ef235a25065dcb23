"""Both kinds of store, our own and the node's Nix, behave the same."""

import contextlib
import os
import sys

import pytest

from cri_proxy import errors
from cri_proxy.lib import workers
from cri_proxy.model.progress import Progress
from cri_proxy.store import nar
from cri_proxy.store.caches import failover
from cri_proxy.store.fetch import closures
from cri_proxy.store.nix.closures import NixClosures
from cri_proxy.store.protocol import NixOptions
from hack.testbed.binary_cache import Executable, Publisher
from hack.testbed.node_nix import VARIABLE, NodeNix
from tests.store.conftest import PROGRAM

NIX_PROGRAM = (
    "from cri_proxy.lib import worker; from cri_proxy.store.nix import jobs;"
    "from cri_proxy.store.nix.programs import Programs;"
    "from cri_proxy.store.protocol import StoreOptions;"
    "worker.serve(StoreOptions, lambda options: jobs.jobs("
    "options.directory.parent, Programs(options.directory.parent / 'nix', options)))"
)


@pytest.fixture(params=["own", pytest.param("nix", marks=pytest.mark.nix)])
def kind(request):
    return request.param


@pytest.fixture
def node_nix(tmp_path, monkeypatch):
    nix = NodeNix(tmp_path / "node-nix")
    for name, value in nix.environment.items():
        monkeypatch.setenv(name, value)
    return nix


@pytest.fixture
def opened(kind, options, store, node_nix):
    """Opens a kind of store; gives it, and where it has its paths."""

    @contextlib.asynccontextmanager
    async def make(**changes):
        nix = NixOptions(os.environ.get(VARIABLE, ""), node_nix.remote)
        argv = [sys.executable, "-c", PROGRAM if kind == "own" else NIX_PROGRAM]
        pool = workers.Pool(argv, size=1, settings=options(nix=nix, **changes), nice=0)
        async with contextlib.aclosing(pool):
            made = closures.Closures(pool) if kind == "own" else NixClosures(pool)
            async with contextlib.aclosing(made):
                await made.recover()
                yield made, store.locate if kind == "own" else node_nix.physical

    return make


@pytest.fixture
def chain(publisher):
    """A closure of three paths, the last of which needs the others."""
    base = publisher.add("base", {"lib/base": b"b" * 5000}, refers_to_itself=True)
    middle = publisher.add("middle", {"bin/middle": Executable(b"#!/bin/sh\n")}, [base])
    return base, middle, publisher.add("top", b"one file", [middle])


async def test_a_complete_closure_is_fetched_and_returned_sorted(opened, chain, publisher):
    async with opened() as (ours, place):
        progress = Progress()
        records = await ours.realize([chain[2]], progress)

        assert [each.path for each in records] == sorted(chain)
        assert progress.paths_done == progress.paths_total == 3
        for record in records:
            info = publisher.narinfo(record.path)
            assert (record.references, record.nar_size) == (info.references, info.nar_size)
            assert nar.digest_of(place(record.path)) == (info.nar_hash, info.nar_size)


async def test_what_is_present_needs_no_cache(opened, chain, server):
    async with opened() as (ours, _):
        first = await ours.realize([chain[2]], Progress())
        server.stop()
        progress = Progress()

        assert await ours.realize([chain[2]], progress) == first
        assert progress.paths_present == 3


async def test_what_no_cache_has_is_not_found(opened, chain, publisher):
    publisher.remove(chain[0])
    async with opened() as (ours, _):
        with pytest.raises(errors.NotFound):
            await ours.realize([chain[2]], Progress())


async def test_path_pushed_after_a_refusal_is_found(opened, chain, publisher):
    kept = publisher.narinfo(chain[0])
    publisher.remove(chain[0])
    async with opened() as (ours, _):
        with pytest.raises(errors.NotFound):
            await ours.realize([chain[2]], Progress())
        publisher.put(kept)

        assert len(await ours.realize([chain[2]], Progress())) == 3


async def test_path_without_a_trusted_signature_is_refused(opened, chain, tmp_path):
    stranger = Publisher(tmp_path / "stranger").public_key.replace("testbed", "stranger")
    async with opened(keys=(stranger,)) as (ours, place):
        with pytest.raises(errors.SignatureUntrusted):
            await ours.realize([chain[2]], Progress())
        assert not place(chain[2]).exists()


async def test_archive_that_does_not_match_its_signature_is_refused(opened, chain, publisher):
    other = publisher.add("other", {"lib/base": b"c" * 5000})
    publisher.archive_file(chain[0]).write_bytes(publisher.archive_file(other).read_bytes())
    async with opened() as (ours, _):
        for _ in range(2):  # whatever the first attempt left
            with pytest.raises(errors.ContentDamaged):
                await ours.realize([chain[2]], Progress())


async def test_unreachable_caches_are_reported_as_such(opened, chain, server, monkeypatch):
    monkeypatch.setattr(failover, "FIRST_PAUSE_SECONDS", 0.001)
    server.stop()
    async with opened() as (ours, _):
        with pytest.raises(errors.SourceUnreachable):
            await ours.realize([chain[2]], Progress())


async def test_available_paths_are_found_and_others_are_not(opened, chain, publisher):
    async with opened() as (ours, place):
        await ours.find(chain)
        assert not place(chain[2]).exists()
        publisher.remove(chain[0])

        with pytest.raises(errors.NotFound):
            await ours.find(chain[:1])
