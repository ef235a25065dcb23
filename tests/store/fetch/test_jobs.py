import contextlib
import os
import subprocess
import threading

import pytest
from msgspec.structs import replace

from cri_proxy import errors
from cri_proxy.http import pool
from cri_proxy.lib.job import Cancelled, Task
from cri_proxy.store import protocol, signatures
from cri_proxy.store.caches import failover
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import jobs as fetching
from cri_proxy.store.fetch import traversal
from cri_proxy.store.protocol import Fetch, Fetched, FetchFailed, FetchFew, Survey
from hack.testbed import web
from hack.testbed.binary_cache import Executable, Publisher, Symlink
from hack.testbed.web import FileServer


def names_in(directory):
    """What a directory holds, sorted."""
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch):
    """Caches in tests recover quickly."""
    monkeypatch.setattr(failover, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def chain(publisher):
    """A closure of four paths: the top, two that it needs, one that both of these need."""
    base = publisher.add("base", {"lib/base": b"b" * 5000}, refers_to_itself=True)
    left = publisher.add("left", {"bin/left": Executable(b"#!/bin/sh\n")}, [base])
    right = publisher.add("right", {"lib/base": Symlink(f"{base}/lib/base")}, [base])
    return publisher.add("top", b"one file", [left, right]), left, right, base


def survey(jobs, roots, task=None):
    """Run the job; return every fact that it reported, by path."""
    facts = []
    task = task or Task(facts.extend)
    argument = Survey(tuple(root.basename for root in roots), width=8)
    facts.extend(jobs[protocol.SURVEY](argument, task))
    assert len(facts) == len({fact.path for fact in facts})
    return {fact.path: fact for fact in facts}


def fetch(jobs, fact, task=None):
    """Run the job for what a survey found."""
    wanted = Fetch(fact.path, fact.found)
    return jobs[protocol.FETCH](wanted, task or Task(lambda count: None)).fact


def fetch_few(jobs, facts):
    """Run the job; return how the paths ended, by path."""
    ended = []
    argument = FetchFew(tuple(Fetch(fact.path, fact.found) for fact in facts), width=4)
    ended.extend(jobs[protocol.FETCH_FEW](argument, Task(ended.extend)))
    by_path = {each.fact.path if isinstance(each, Fetched) else each.path: each for each in ended}
    assert len(ended) == len(by_path)
    return by_path


def fetch_alone_of_few(jobs, fact):
    """Run the job for one path, and raise the error that it ended with."""
    ended = fetch_few(jobs, [fact])[fact.path]
    if isinstance(ended, FetchFailed):
        raise errors.of_wire(ended.error)


def fetch_all(jobs, root):
    """Bring a closure here."""
    for fact in survey(jobs, [root]).values():
        if fact.found is not None:
            fetch(jobs, fact)


def test_survey_tells_the_closure_of_absent_paths(options, chain):
    facts = survey(fetching.jobs(options()), chain[:1])
    top, left, right, base = chain

    assert facts.keys() == {path.basename for path in chain}
    assert set(facts[top.basename].references) == {left.basename, right.basename}
    assert facts[base.basename].references == (base.basename,)
    assert all(fact.found is not None for fact in facts.values())


def test_closure_without_an_end_is_given_up(options, chain, monkeypatch):
    """What caches say while it is surveyed is not verified yet."""
    monkeypatch.setattr(traversal, "PATHS_AT_MOST", 3)

    with pytest.raises(errors.ContentDamaged, match="more than 3 paths"):
        survey(fetching.jobs(options()), chain[:1])


def test_survey_of_present_paths_asks_no_cache(options, chain, server):
    jobs = fetching.jobs(options())
    absent = survey(jobs, chain[:1])
    fetch_all(jobs, chain[0])
    server.stop()

    present = survey(jobs, chain[:1])

    assert present == {name: replace(fact, found=None) for name, fact in absent.items()}


def test_survey_asks_only_for_what_is_absent(options, publisher, chain, server):
    jobs = fetching.jobs(options())
    fetch_all(jobs, chain[1])
    server.forget()
    facts = survey(jobs, chain[:1])

    assert {name for name, fact in facts.items() if fact.found is not None} == {
        chain[0].basename,
        chain[2].basename,
    }
    assert server.count("*.narinfo") == 2


def test_survey_reports_while_it_goes(options, publisher):
    """A path is told before what it needs has been looked up."""
    leaves = [publisher.add(f"leaf-{n}", b"x" * n) for n in range(50)]
    root = publisher.add("root", b"r", leaves)
    reports = []
    rest = fetching.jobs(options())[protocol.SURVEY](
        Survey((root.basename,), width=8), Task(reports.append)
    )
    told = [fact for report in reports for fact in report]

    assert told[0].path == root.basename
    assert len(told) + len(rest) == 51
    assert max(map(len, reports)) <= 32


def test_survey_looks_many_paths_up_at_a_time(options, publisher, server, monkeypatch):
    monkeypatch.setattr(pool, "LATE_SECONDS", 60)
    leaves = [publisher.add(f"leaf-{n}", b"x" * n) for n in range(40)]
    root = publisher.add("root", b"r", leaves)
    hang = web.Hang()
    jobs = fetching.jobs(options())
    for leaf in leaves:
        server.fail(f"/{leaf.digest}.narinfo", hang)
    surveying = threading.Thread(target=survey, args=(jobs, [root]))
    surveying.start()
    while server.count("*.narinfo") < 9:  # the root, then as many as there may be at a time
        surveying.join(0.01)
        assert surveying.is_alive()
    server.heal()
    surveying.join(60)

    assert server.peak == 8
    assert server.count("*.narinfo") == 41


def test_survey_that_is_cancelled_stops_asking(options, publisher, server):
    leaves = [publisher.add(f"leaf-{n}", b"x" * n) for n in range(100)]
    root = publisher.add("root", b"r", leaves)
    task = Task(lambda report: task.cancel())

    with pytest.raises(Cancelled):
        survey(fetching.jobs(options()), [root], task)
    assert server.count("*.narinfo") < 101


def test_path_that_nobody_has_ends_the_survey(options, publisher, chain):
    publisher.remove(chain[3])

    with pytest.raises(errors.NotFound, match=str(chain[3])):
        survey(fetching.jobs(options()), chain[:1])


@pytest.mark.parametrize("compression", ["zstd", "xz", "gzip", "bzip2", "none"])
def test_fetched_path_is_in_place_and_proved(options, publisher, store, sound, compression):
    publisher.compression = compression
    path = publisher.add("thing", {"bin/x": Executable(b"#!/bin/sh\n"), "data": b"d" * 100_000})
    fact = survey(fetching.jobs(options()), [path])[path.basename]
    result = fetch(fetching.jobs(options()), fact)

    assert sound() == (path,)
    assert result == replace(fact, found=None)
    assert os.access(store.locate(path) / "bin/x", os.X_OK)
    assert names_in(store.directory / ".stage") == []


def test_archive_larger_than_what_is_awaited_at_a_time_is_whole(options, publisher, sound):
    publisher.compression = "none"
    path = publisher.add("large", {"data": os.urandom(3_500_001), "small": b"s"})
    fact = survey(fetching.jobs(options()), [path])[path.basename]
    fetch(fetching.jobs(options()), fact)

    assert sound() == (path,)


def test_path_that_is_present_by_now_is_not_fetched_again(options, publisher, server):
    path = publisher.add("thing", b"x")
    jobs = fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    fetch(jobs, fact)
    server.stop()

    assert fetch(jobs, fact).path == path.basename


def test_progress_counts_the_bytes_of_the_archive(options, publisher):
    path = publisher.add("thing", {"data": bytes(20_000_000)})
    reports = []
    jobs = fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    fetch(jobs, fact, Task(reports.append))

    assert len(reports) == 4
    assert reports == sorted(reports)
    assert reports[-1] <= fact.nar_size


def test_fetch_that_is_cancelled_leaves_nothing(options, publisher, store):
    path = publisher.add("thing", {"data": bytes(20_000_000)})
    jobs = fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    task = Task(lambda report: task.cancel())

    with pytest.raises(Cancelled):
        fetch(jobs, fact, task)
    assert not store.has(path)
    assert names_in(store.directory / ".stage") == []
    fetch(jobs, fact)
    assert store.has(path)


def spoil(server, publisher, path, fault):
    """Have the archive of a path come with a fault."""
    server.fail(f"/{publisher.narinfo(path).url}", fault)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_archive_of_flipped_bits_is_damage_of_that_cache_and_of_no_use(
    options, publisher, server, store, compression
):
    publisher.compression = compression
    path = publisher.add("thing", {"data": os.urandom(50_000)})
    jobs = fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    spoil(server, publisher, path, web.Corruption(20_000))

    with pytest.raises(errors.ContentDamaged, match=f"{path} is damaged .*{server.url}"):
        fetch(jobs, fact)
    assert not store.has(path)
    assert names_in(store.directory / ".stage") == []
    server.heal()
    fetch(jobs, fact)
    assert store.has(path)


def test_archive_that_was_cut_at_the_cache_is_damage(options, publisher, server, store):
    """Every byte that was promised comes; there are too few of them."""
    path = publisher.add("thing", {"data": os.urandom(50_000)})
    archive = publisher.archive_file(path)
    whole = archive.read_bytes()
    jobs = fetching.jobs(options())
    archive.write_bytes(whole[:20_000])

    with pytest.raises(errors.ContentDamaged, match="breaks off"):
        fetch(jobs, survey(jobs, [path])[path.basename])
    archive.write_bytes(whole)
    fetch(jobs, survey(jobs, [path])[path.basename])
    assert store.has(path)


def test_archive_that_always_breaks_off_is_a_cache_out_of_reach(options, publisher, server, store):
    path = publisher.add("thing", {"data": os.urandom(50_000)})
    jobs = fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    spoil(server, publisher, path, web.Truncation(1000))

    with pytest.raises(errors.SourceUnreachable, match="broke off"):
        fetch(jobs, fact)
    assert server.count("/nar/*") == failover.ATTEMPTS
    server.heal()
    fetch(jobs, fact)
    assert store.has(path)


def test_another_cache_stands_in_for_one_with_damaged_bytes(options, publisher, server):
    path = publisher.add("thing", {"data": os.urandom(50_000)})
    spoil(server, publisher, path, web.Corruption(20_000))
    with FileServer(publisher.directory) as second:
        jobs = fetching.jobs(options(caches=(server.url, second.url)))
        fetch(jobs, survey(jobs, [path])[path.basename])

        assert second.count("/nar/*") == 1


@pytest.mark.parametrize("by", [fetch, fetch_alone_of_few])
def test_path_that_no_trusted_key_signed_is_refused_before_its_archive_is_asked_for(
    options, publisher, server, by
):
    path = publisher.add("thing", b"x")
    stranger = str(signatures.generate("stranger-1").public)
    jobs = fetching.jobs(options(keys=(stranger,)))
    fact = survey(jobs, [path])[path.basename]

    with pytest.raises(errors.SignatureUntrusted, match=f"{path} .*testbed-1.*stranger-1"):
        by(jobs, fact)
    assert not server.count("/nar/*")


def test_path_without_signature_is_refused(options, publisher):
    path = publisher.add("thing", b"x")
    lines = publisher.narinfo_file(path).read_text().splitlines(keepends=True)
    publisher.narinfo_file(path).write_text("".join(x for x in lines if not x.startswith("Sig")))

    jobs = fetching.jobs(options())
    with pytest.raises(errors.SignatureUntrusted, match="signed by no key"):
        fetch(jobs, survey(jobs, [path])[path.basename])


def test_signature_is_checked_by_the_fetch(options, publisher, store):
    """What travelled between processes is not taken as verified."""
    path = publisher.add("thing", b"x")
    fact = survey(fetching.jobs(options()), [path])[path.basename]
    forged = fact.found.narinfo.replace("NarSize: ", "NarSize: 1")
    stranger = str(signatures.generate("stranger-1").public)

    with pytest.raises(errors.SignatureUntrusted):
        fetch(fetching.jobs(options()), replace(fact, found=replace(fact.found, narinfo=forged)))
    with pytest.raises(errors.SignatureUntrusted):
        fetch(fetching.jobs(options(keys=(stranger,))), fact)
    assert not store.has(path)


@pytest.mark.parametrize("by", [fetch, fetch_alone_of_few])
def test_signed_cache_stands_in_for_an_unsigned_one(
    options, publisher, server, store, tmp_path, by
):
    path = publisher.add("thing", b"x")
    unsigned = Publisher(tmp_path / "unsigned", key=signatures.generate("stranger-1"))
    unsigned.add("thing", b"x")
    jobs = fetching.jobs(options(caches=(unsigned.url, server.url)))
    by(jobs, survey(jobs, [path])[path.basename])

    assert store.has(path)
    assert server.count("/nar/*") == 1


def test_two_fetches_of_one_path_download_it_once(options, publisher, server):
    path = publisher.add("thing", {"data": os.urandom(300_000)})
    jobs, others = fetching.jobs(options()), fetching.jobs(options())
    fact = survey(jobs, [path])[path.basename]
    server.forget()
    threads = [threading.Thread(target=fetch, args=(each, fact)) for each in (jobs, others) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert server.count("/nar/*") == 1


def test_recovery_is_a_job_too(options, publisher, store, task):
    path = publisher.add("thing", b"x")
    jobs = fetching.jobs(options())
    jobs[protocol.RECOVER](None, task)
    fetch_all(jobs, path)

    assert store.has(path)


@pytest.mark.parametrize(
    "changes", [{"keys": ("nonsense",)}, {"caches": ("nonsense",)}], ids=["key", "cache"]
)
def test_settings_that_cannot_be_read_are_refused(options, changes):
    with pytest.raises(errors.RequestInvalid, match="'nonsense'"):
        fetching.jobs(options(**changes))


def test_basename_that_is_none_is_refused(options, task):
    with pytest.raises(errors.RequestInvalid):
        fetching.jobs(options())[protocol.SURVEY](Survey(("../../etc",), width=8), task)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB with 60 inodes, and the command that gives it more."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system of limited size")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=60", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow mounts")
    try:
        yield place, ["mount", "-o", "remount,size=64m,nr_inodes=10000", str(place)]
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"data": os.urandom(3_000_000)}, r"\d{7} bytes are needed and \d+ are free"),
        (
            {f"file-{n}": b"x" for n in range(100)},
            r"\d+ bytes are needed and \d+ are free and no inode",
        ),
    ],
    ids=["bytes", "inodes"],
)
def test_full_disk_is_told_leaves_no_stage_and_once_there_is_room_all_is_well(
    options, publisher, small_disk, tree, reason
):
    place, enlarge = small_disk
    store = Store(place / "store")
    store.recover()
    path = publisher.add("thing", tree)
    jobs = fetching.jobs(options(directory=store.directory))
    fact = survey(jobs, [path])[path.basename]

    with pytest.raises(errors.NodeExhausted, match=f"no room for {path}: {reason}"):
        fetch(jobs, fact)
    assert names_in(store.directory / ".stage") == []
    subprocess.run(enlarge, check=True)
    fetch(jobs, fact)
    assert store.has(path)


def test_disk_that_fills_up_in_the_middle_is_told(options, publisher, small_disk):
    """The path alone would have fitted when it was begun."""
    place, _ = small_disk
    store = Store(place / "store")
    store.recover()
    path = publisher.add("thing", {"data": os.urandom(1_500_000)})
    jobs = fetching.jobs(options(directory=store.directory))
    fact = survey(jobs, [path])[path.basename]

    class Meanwhile(Task):
        def check(self):
            """Fill the disk, once the path has begun."""
            if (store.directory / ".stage" / f"{path.basename}.tree").exists():
                with contextlib.suppress(OSError), (place / "log").open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

    with pytest.raises(errors.NodeExhausted, match=f"no room for {path}: .* are free"):
        fetch(jobs, fact, Meanwhile(lambda report: None))
    assert not store.has(path)
    assert names_in(store.directory / ".stage") == []


@pytest.mark.parametrize("compression", ["zstd", "xz", "none"])
@pytest.mark.parametrize("is_near", [False, True])
def test_few_paths_are_fetched_at_once(options, publisher, sound, tmp_path, compression, is_near):
    publisher.compression = compression
    paths = [publisher.add(f"thing-{n}", {"bin/x": b"x" * 1000 * n}) for n in range(10)]
    root = publisher.add("root", b"r", paths)
    jobs = fetching.jobs(options(**({"caches": (publisher.url,)} if is_near else {})))
    facts = survey(jobs, [root])

    told = fetch_few(jobs, facts.values())

    assert told.keys() == facts.keys()
    assert all(isinstance(each, Fetched) and each.timings for each in told.values())
    assert sound() == tuple(sorted([*paths, root]))


def test_one_of_few_that_cannot_be_had_leaves_the_others(options, publisher, chain, store):
    jobs = fetching.jobs(options())
    facts = survey(jobs, chain[:1])
    archive = publisher.archive_file(chain[1])
    archive.write_bytes(archive.read_bytes()[:-9])

    told = fetch_few(jobs, facts.values())

    assert {name for name, each in told.items() if isinstance(each, FetchFailed)} == {
        chain[1].basename
    }
    with pytest.raises(errors.ContentDamaged):
        raise errors.of_wire(told[chain[1].basename].error)
    assert set(store.paths()) == {chain[0], chain[2], chain[3]}
    assert names_in(store.directory / ".stage") == []


def test_another_cache_stands_in_for_few_of_damaged_bytes(options, publisher, server, chain):
    jobs = fetching.jobs(options(caches=(server.url, publisher.url)))
    facts = [
        replace(fact, found=replace(fact.found, cache=server.url))
        for fact in survey(jobs, chain[:1]).values()
    ]
    server.fail("/nar/*", web.Corruption(50))

    assert all(isinstance(each, Fetched) for each in fetch_few(jobs, facts).values())


def test_few_that_are_being_fetched_are_waited_for(options, publisher, server):
    """By another process or thread, which holds the path: one archive comes once."""
    path = publisher.add("thing", b"x" * 1000)
    jobs = fetching.jobs(options())
    facts = list(survey(jobs, [path]).values())
    hang = web.Hang()
    server.fail("/nar/*", hang)
    fetching_it = threading.Thread(target=fetch, args=(jobs, facts[0]))
    fetching_it.start()
    while not server.count("/nar/*"):
        fetching_it.join(0.01)
    few = threading.Thread(target=fetch_few, args=(jobs, facts))
    few.start()
    server.heal()
    for each in (fetching_it, few):
        each.join(60)

    assert server.count("/nar/*") == 1


def test_signature_is_checked_again_for_few(options, publisher, store):
    path = publisher.add("thing", b"x")
    facts = survey(fetching.jobs(options()), [path])
    other = signatures.generate("other").public

    told = fetch_few(fetching.jobs(options(keys=(str(other),))), facts.values())

    with pytest.raises(errors.SignatureUntrusted):
        raise errors.of_wire(told[path.basename].error)
    assert store.paths() == ()


@pytest.mark.parametrize("what", ["*.narinfo", "/nar/*"])
def test_job_that_waits_for_a_silent_cache_is_cancelled_at_once(
    options, publisher, store, server, what
):
    """It waits for no piece, and no deadline of the cache's, before it ends."""
    path = publisher.add("thing", b"x")
    jobs = fetching.jobs(options(timeout_seconds=3600))
    wanted = tuple(Fetch(fact.path, fact.found) for fact in survey(jobs, [path]).values())
    task = Task(lambda report: None)
    with server.hold(what) as held:
        if what == "*.narinfo":
            argument, job = Survey((path.basename,), width=8), protocol.SURVEY
        else:
            argument, job = FetchFew(wanted, width=4), protocol.FETCH_FEW
        future = jobs.named(job.name).start(argument, task)
        held.wait()
        task.cancel()

        with pytest.raises(Cancelled):
            future.result(60)
    assert names_in(store.directory / ".stage") == []
