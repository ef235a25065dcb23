import asyncio
import os
import random
import subprocess
from collections import Counter

import pytest

from cri_proxy import errors
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.store import protocol, signatures
from cri_proxy.store.fetch import closures
from hack.testbed import web
from hack.testbed.web import Status

DEADLINE_SECONDS = 60


async def realize(ours, *roots):
    """Realize within a deadline; return the basenames of what is present then."""
    progress = Progress()
    async with asyncio.timeout(DEADLINE_SECONDS):
        records = await ours.realize(roots, progress)
    assert progress.phase is Phase.FETCHING
    assert progress.paths_done == progress.paths_total == len(records)
    assert progress.bytes_done == progress.bytes_total == sum(each.nar_size for each in records)
    return {each.path for each in records}


@pytest.fixture
def forest(publisher):
    """Six roots whose closures overlap: each needs a few of thirty leaves and one trunk."""
    generator = random.Random(7)
    trunk = publisher.add("trunk", {"lib/trunk": os.urandom(200_000)})
    leaves = [
        publisher.add(f"leaf-{n}", {"data": os.urandom(generator.randrange(50_000))}, [trunk])
        for n in range(30)
    ]
    closure_of = {}
    for number in range(6):
        chosen = generator.sample(leaves, 15)
        root = publisher.add(f"root-{number}", {"number": str(number).encode()}, chosen)
        closure_of[root] = {root, trunk, *chosen}
    return closure_of


async def test_closure_is_present_when_it_is_realized(daemon, forest, sound, publisher):
    root = next(iter(forest))
    async with daemon() as ours:
        records = await ours.realize([root], Progress())

    assert [each.path for each in records] == sorted(forest[root])
    assert set(sound()) == forest[root]
    for each in records:
        info = publisher.narinfo(each.path)
        assert (each.references, each.nar_size) == (info.references, info.nar_size)


async def test_progress_grows_to_the_whole(daemon, forest, publisher):
    root = next(iter(forest))
    async with daemon() as ours:
        assert await realize(ours, root) == forest[root]


async def test_realizing_again_asks_no_cache_and_counts_all_as_present(daemon, forest, server):
    root = next(iter(forest))
    async with daemon() as ours:
        await realize(ours, root)
        server.stop()
        progress = Progress()
        await ours.realize([root], progress)

    assert progress.paths_present == progress.paths_done == len(forest[root])


async def test_what_is_present_is_not_fetched_for_a_closure_that_has_changed(
    daemon, forest, server, publisher
):
    root = next(iter(forest))
    changed = publisher.add("changed", b"new", sorted(forest[root]))
    async with daemon() as ours:
        await realize(ours, root)
        server.forget()
        await realize(ours, changed)

    assert server.count("*.narinfo") == 1
    assert server.count("/nar/*") == 1


async def test_closures_at_once_request_each_archive_once(daemon, forest, server, publisher):
    async with daemon(is_patient=True) as ours:
        found = await asyncio.gather(
            *(realize(ours, root) for root in forest), *(realize(ours, root) for root in forest)
        )

    assert found == [*forest.values(), *forest.values()]
    wanted = {f"/{publisher.narinfo(path).url}" for path in set().union(*forest.values())}
    archives = Counter(r.path for r in server.requests if r.path.startswith("/nar/"))
    assert archives == dict.fromkeys(wanted, 1)


async def test_two_daemons_on_one_store_request_each_archive_once(
    daemon, forest, server, publisher, sound
):
    async with daemon(is_patient=True) as ours, daemon(is_patient=True) as theirs:
        await asyncio.gather(*(realize(which, root) for root in forest for which in (ours, theirs)))

    every = set().union(*forest.values())
    assert set(sound()) == every
    assert server.count("/nar/*") == len(every)


async def test_downloads_at_a_time_are_bounded(daemon, forest, server):
    """Besides them there are surveys with a share each, and a greeting by each worker."""
    server.delay_seconds = 0.01
    async with daemon() as ours:
        ours._connections = 4
        ours._slots = closures._Slots(3)
        await asyncio.gather(*(realize(ours, root) for root in forest))

    assert server.peak <= 3 + (4 + 2 + 1 + 1 + 1 + 1) + 2


async def test_largest_path_that_is_known_goes_first():
    slots, order = closures._Slots(1), []

    async def take(size):
        async with slots.hold(1, size=size):
            order.append(size)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(size) for size in (3, 9, 1, 7, 9)))

    assert order == [9, 9, 7, 3, 1]


async def test_slot_of_one_who_gave_up_goes_to_the_next():
    slots = closures._Slots(1)
    entered = asyncio.Event()

    async def take():
        async with slots.hold(1, size=1):
            entered.set()

    async with slots.hold(1, size=1):
        waiting = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    waiting[1].cancel()  # it may have been granted its turn already
    await asyncio.wait_for(waiting[2], DEADLINE_SECONDS)

    assert entered.is_set()
    async with asyncio.timeout(DEADLINE_SECONDS), slots.hold(1, size=1):
        pass
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_slots_can_be_given_back_one_by_one():
    slots = closures._Slots(4)
    async with slots.hold(4, size=400) as held:
        waiting = asyncio.ensure_future(slots.hold(3, size=1).__aenter__())
        held.keep(2)
        await asyncio.sleep(0)
        assert not waiting.done()
        held.keep(1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            other = await waiting

    assert (held.count, other.count) == (0, 3)
    assert slots._bytes == 1


async def test_missing_path_fails_the_realization_and_succeeds_once_it_is_pushed(
    daemon, forest, publisher, sound
):
    root = next(iter(forest))
    missing = sorted(forest[root] - {root})[3]
    aside = publisher.narinfo_file(missing).rename(publisher.directory / "aside")
    async with daemon() as ours:
        with pytest.raises(errors.NotFound, match=str(missing)):
            await realize(ours, root)
        sound()
        aside.rename(publisher.narinfo_file(missing))

        assert await realize(ours, root) == forest[root]


async def test_unreachable_cache_fails_the_realization_and_succeeds_once_it_is_back(
    daemon, forest, server
):
    root = next(iter(forest))
    async with daemon() as ours:
        server.stop()
        with pytest.raises(errors.SourceUnreachable, match=server.url):
            await realize(ours, root)
        server.start()

        assert await realize(ours, root) == forest[root]


async def test_damaged_archive_fails_the_realization_and_succeeds_once_it_is_mended(
    daemon, forest, server, publisher, sound
):
    root = next(iter(forest))
    bad = sorted(forest[root] - {root})[3]
    server.fail(f"/{publisher.narinfo(bad).url}", web.Corruption(60))
    async with daemon() as ours:
        with pytest.raises(errors.ContentDamaged, match=f"{bad} is damaged"):
            await realize(ours, root)
        assert bad not in sound()
        server.heal()

        assert await realize(ours, root) == forest[root]


async def test_untrusted_key_fails_the_realization_before_anything_is_fetched(
    daemon, forest, server
):
    stranger = str(signatures.generate("stranger-1").public)
    async with daemon(keys=(stranger,)) as ours:
        with pytest.raises(errors.SignatureUntrusted):
            await realize(ours, next(iter(forest)))

    assert not server.count("/nar/*")


async def test_failure_of_one_realization_leaves_what_another_wants(
    daemon, forest, server, publisher
):
    """Both want the same path, which is on its way while the first one fails."""
    trunk = next(path for path in next(iter(forest.values())) if path.name == "trunk")
    doomed = publisher.add("doomed", b"d", [trunk, publisher.add("absent", b"x")])
    publisher.remove(next(p for p in publisher.narinfo(doomed).references if p.name == "absent"))
    hang = web.Hang(size=10)
    server.fail(f"/{publisher.narinfo(trunk).url}", hang)
    async with daemon() as ours:
        healthy = asyncio.create_task(realize(ours, trunk))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not server.count("/nar/*"):
                await asyncio.sleep(0.01)
        with pytest.raises(errors.NotFound, match="absent"):
            await realize(ours, doomed)
        assert not healthy.done()
        hang.released.set()

        assert await healthy == {trunk}
    assert server.count(f"/{publisher.narinfo(trunk).url}") <= 2  # once more, where it was late


async def test_cancelling_stops_what_nobody_else_wants(daemon, forest, server, publisher, store):
    root = next(iter(forest))
    hang = web.Hang(size=10)
    server.fail("/nar/*", hang)
    async with daemon() as ours:
        task = asyncio.create_task(realize(ours, root))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not server.count("/nar/*"):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(DEADLINE_SECONDS):
            while any((store.directory / ".stage").iterdir()):  # given up, though nothing came
                await asyncio.sleep(0.01)
        server.heal()

        assert not store.has(root)
        assert await realize(ours, root) == forest[root]


async def test_passing_trouble_of_a_cache_is_not_noticed(daemon, forest, server):
    root = next(iter(forest))
    for pattern in ("*.narinfo", "/nar/*"):
        server.fail(pattern, Status(503), times=1)
        server.fail(pattern, web.Truncation(5), times=2)
    async with daemon() as ours:
        assert await realize(ours, root) == forest[root]


async def test_path_that_came_with_other_references_brings_those_too(
    daemon, publisher, server, tmp_path, sound
):
    """Another cache stands in for the one that was surveyed, and built the path differently."""
    late = publisher.add("late", b"late")
    root = publisher.add("root", {"data": os.urandom(5000)})
    twin = type(publisher)(tmp_path / "twin", key=publisher.key)
    twin.publish(root, {"data": b"built differently"}, [late])
    twin.add("late", b"late")
    (twin.directory / "nix-cache-info").write_text("StoreDir: /nix/store\nPriority: 90\n")
    server.fail("/nar/*", web.Corruption(60))
    async with daemon(caches=(server.url, twin.url)) as ours:
        assert await realize(ours, root) == {root, late}
    assert set(sound()) == {root, late}


async def test_disk_without_room_is_told(daemon, publisher, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system of limited size")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow mounts")
    try:
        root = publisher.add("root", {"data": os.urandom(2_000_000)})
        async with daemon(directory=small / "store") as ours:
            with pytest.raises(errors.NodeExhausted, match=f"no room for {root}"):
                await realize(ours, root)
            subprocess.run(["mount", "-o", "remount,size=32m", str(small)], check=True)

            assert await realize(ours, root) == {root}
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


async def test_nothing_to_realize_is_nothing(daemon):
    async with daemon() as ours:
        assert await realize(ours) == set()


async def test_surveys_at_once_share_the_connections(daemon, forest, monkeypatch):
    """One alone has all of them, for everything waits for what it finds."""
    roots, widths = list(forest), []
    async with daemon() as ours:
        call = ours._pool.call

        async def watched(job, argument, **options):
            if job == protocol.SURVEY:
                widths.append(argument.width)
            return await call(job, argument, **options)

        monkeypatch.setattr(ours._pool, "call", watched)
        await asyncio.gather(*(realize(ours, root) for root in roots[:3]))
        await realize(ours, roots[0])

    assert widths == [32, 16, 10, 32]
