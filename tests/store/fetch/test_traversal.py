from concurrent.futures import ThreadPoolExecutor

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.store.caches import cache
from cri_proxy.store.caches.fetcher import Fetcher, Wanted
from cri_proxy.store.fetch import traversal
from cri_proxy.store.fetch.traversal import Walk, fact_of


@pytest.fixture
def walked(store, publisher, loop):
    """Traverses from roots through the publisher's directory; returns all facts, in order."""
    source = cache.Directory(publisher.directory)

    def wanted_of(path):
        def learn(place, text):
            offer = place.offer_of(path, text)
            return fact_of(offer.narinfo, offer), offer.narinfo.references

        def refuse(check):
            raise errors.NotFound(str(path))

        return Wanted(path, [source], cache.name_of(path), learn, refuse)

    def walk(roots, task=None, unprepared=None):
        facts = []

        async def run():
            files = Fetcher(4, threads)
            walk = Walk(
                store,
                task or Task(facts.extend),
                files,
                wanted_of=wanted_of,
                prepare=prepare,
                turn=turn,
            )
            try:
                return await walk.run(roots)
            finally:
                files.close()

        async def prepare():
            if unprepared is not None:
                raise unprepared

        async def turn():
            walk.turns += 1

        with ThreadPoolExecutor(1) as threads:
            facts.extend(loop.wait(run()))
        return facts

    walk.turns = 0
    return walk


def test_a_closure_is_traversed_from_its_roots(walked, publisher):
    base = publisher.add("base", b"b")
    leaves = [publisher.add(f"leaf-{n}", b"x" * n, [base]) for n in range(5)]
    root = publisher.add("root", b"r", leaves)
    facts = walked([root])

    assert facts[0].path == root.basename
    assert {fact.path for fact in facts} == {each.basename for each in (root, base, *leaves)}
    assert len(facts) == 7
    assert all(fact.found is not None for fact in facts)
    assert walked.turns >= 3  # one for each level of the closure


def test_caches_are_prepared_before_the_first_is_asked(walked, publisher):
    with pytest.raises(LookupError, match="not prepared"):
        walked([publisher.add("root", b"r")], unprepared=LookupError("not prepared"))


def test_closure_without_an_end_is_given_up(walked, publisher, monkeypatch):
    """What caches say while it is surveyed is not verified yet."""
    monkeypatch.setattr(traversal, "PATHS_AT_MOST", 3)
    leaves = [publisher.add(f"leaf-{n}", b"x" * n) for n in range(5)]

    with pytest.raises(errors.ContentDamaged, match="more than 3 paths"):
        walked([publisher.add("root", b"r", leaves)])


def test_a_path_that_cannot_be_found_ends_the_traversal(walked, publisher):
    leaf = publisher.add("leaf", b"x")
    root = publisher.add("root", b"r", [leaf])
    publisher.remove(leaf)

    with pytest.raises(errors.NotFound, match=str(leaf)):
        walked([root])


def test_a_cancelled_traversal_ends(walked, publisher):
    task = Task(lambda facts: None)
    task.cancel()

    with pytest.raises(Cancelled):
        walked([publisher.add("root", b"r")], task)
