"""Locations: what a realization's own caches give, to whom, and what of it others may have."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cri_proxy import errors
from cri_proxy.lib.job import Job, Task
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar, protocol
from cri_proxy.store.disk.local import Store
from cri_proxy.store.fetch import jobs as fetching
from cri_proxy.store.protocol import Fact, Fetch, Find, StoreOptions, Survey
from hack.testbed.binary_cache import Publisher
from hack.testbed.web import FileServer, Status
from tests.store.disk.nodes import remove

SECRET = "flox_pat_very-secret"
A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")


class Node:
    """The jobs of one node, with one configured cache, as the daemon has them run."""

    def __init__(self, directory: Path, *configured: Publisher) -> None:
        self.store = Store(directory)
        self._jobs = fetching.jobs(
            StoreOptions(
                directory=directory,
                caches=tuple(each.url for each in configured),
                keys=tuple(each.public_key for each in configured),
                connections=4,
                node_connections=4,
                timeout_seconds=30,
            )
        )
        self.call(protocol.RECOVER, None)

    def call(self, job: Job[A, P, R], argument: A) -> R:
        return self._jobs[job](argument, Task(lambda _: None))

    def realize(self, root: StorePath, *locations: Location) -> list[str]:
        """Bring the closure of a root here; return what it had to be fetched."""
        facts: list[Fact] = []
        survey = Survey((root.basename,), 4, locations)
        facts.extend(self._jobs[protocol.SURVEY](survey, Task(facts.extend)))
        fetched = []
        for fact in facts:
            if fact.found is not None:
                self.call(protocol.FETCH, Fetch(fact.path, fact.found, locations))
                fetched.append(fact.path)
        return fetched

    def is_whole(self, path: StorePath, publisher: Publisher) -> bool:
        """Whether the path is present with the contents that the publisher gave it."""
        if not self.store.has(path):
            return False
        return nar.digest_of(self.store.locate(path))[0] == publisher.narinfo(path).nar_hash


def location(
    url: str, publisher: Publisher, *paths: StorePath, password: str | None = SECRET, **other: Any
) -> Location:
    """Return a location as the catalog's answer becomes it."""
    made = Location(
        url,
        user=None if password is None else "unused",
        password=password,
        public_keys=(publisher.public_key,),
        paths=tuple(each.basename for each in paths),
    )
    return replace(made, **other)


@pytest.fixture
def public(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "public")


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "acme")


@pytest.fixture
def site(acme: Publisher) -> Iterator[FileServer]:
    """Acme's cache behind HTTP, for those who log in."""
    with FileServer(acme.directory) as server:
        login = base64.b64encode(f"unused:{SECRET}".encode()).decode()
        server.authorization = f"Basic {login}"
        yield server


@pytest.fixture
def node(tmp_path: Path, public: Publisher) -> Node:
    return Node(tmp_path / "store", public)


def messages_of(error: BaseException) -> str:
    """Return all that an error and its causes say."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return " ".join(said)


def test_a_package_and_what_only_its_publisher_has_come_from_the_location(
    node: Node, public: Publisher, acme: Publisher, site: FileServer
) -> None:
    common = public.add("common", {"lib": b"common"})
    own = acme.add("own", {"lib": b"own"})
    app = acme.add("app", {"bin": b"app"}, [common, own])

    node.realize(app, location(site.url, acme, app))

    assert node.is_whole(app, acme)
    assert node.is_whole(own, acme)
    assert node.is_whole(common, public)
    assert [node.store.is_reserved(each) for each in (app, own, common)] == [True, True, False]


def test_the_login_may_stand_in_the_url(node: Node, acme: Publisher, site: FileServer) -> None:
    app = acme.add("app", b"app")

    node.realize(
        app,
        location(site.url.replace("//", f"//unused:{SECRET}@"), acme, app, password=None),
    )

    assert node.is_whole(app, acme)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_login_there_is_nothing(
    node: Node, acme: Publisher, site: FileServer, password: str | None
) -> None:
    app = acme.add("app", b"app")

    with pytest.raises(errors.NotFound, match=r"answered 401"):
        node.realize(app, location(site.url, acme, app, password=password))


def test_a_configured_cache_is_fallen_back_to(
    node: Node, public: Publisher, acme: Publisher, site: FileServer
) -> None:
    app = acme.add("app", b"app")
    public.publish(app, b"app")
    site.fail("*", Status(500))

    node.realize(app, location(site.url, acme, app))

    assert node.is_whole(app, public)
    assert not node.store.is_reserved(app)


def test_a_locations_keys_are_good_for_that_location_only(
    node: Node, public: Publisher, acme: Publisher, tmp_path: Path, site: FileServer
) -> None:
    forger = Publisher(tmp_path / "forger", key=acme.key)
    fake = public.add("common", b"the right one")
    app = acme.add("app", b"app", [fake])
    forger.publish(fake, b"a false one")
    for file in forger.directory.glob("*.narinfo"):  # the configured cache serves what acme signed
        (public.directory / file.name).write_bytes(file.read_bytes())

    with pytest.raises(errors.SignatureUntrusted, match=r"common.*not signed by a trusted key"):
        node.realize(app, location(site.url, acme, app))


def test_what_one_caller_was_given_is_nothing_to_another(
    node: Node, acme: Publisher, site: FileServer
) -> None:
    app = acme.add("app", b"app")
    node.realize(app, location(site.url, acme, app))

    with pytest.raises(errors.NotFound, match=r"app is in none of the binary caches"):
        node.realize(app)
    with pytest.raises(errors.NotFound, match=r"answered 401"):
        node.realize(app, location(site.url, acme, app, password="another"))
    assert node.realize(app, location(site.url, acme, app)) == []


def test_a_reserved_path_becomes_everybodys_when_a_configured_cache_has_it(
    node: Node, public: Publisher, acme: Publisher, site: FileServer
) -> None:
    app = acme.add("app", b"app")
    node.realize(app, location(site.url, acme, app))
    public.publish(app, b"app")
    (public.directory / public.narinfo(app).url).unlink()  # nothing is downloaded for it

    assert node.realize(app) == [app.basename]

    assert not node.store.is_reserved(app)
    assert node.realize(app) == []


def test_a_publisher_cannot_put_false_contents_in_anothers_way(
    node: Node, public: Publisher, acme: Publisher, site: FileServer, tmp_path: Path
) -> None:
    """The first publisher of a path is right only for environments that trust it."""
    common = public.add("common", b"the right one")
    theirs = acme.add("theirs", b"the right one, too")
    mallory = Publisher(tmp_path / "mallory")
    bait = mallory.add("bait", b"bait", [common, theirs])
    mallory.publish(common, b"a false one")
    mallory.publish(theirs, b"another false one")
    public.remove(common)
    with FileServer(mallory.directory) as server:
        node.realize(bait, location(server.url, mallory, bait, password=None))
    assert node.is_whole(common, mallory)

    public.publish(common, b"the right one")
    node.realize(common)
    with pytest.raises(errors.ContentDamaged, match=r"other contents than those on this node"):
        node.realize(theirs, location(site.url, acme, theirs))

    assert node.is_whole(common, public)
    assert node.is_whole(theirs, mallory)
    assert node.store.is_reserved(theirs)
    remove(node.store, [theirs])
    node.realize(theirs, location(site.url, acme, theirs))
    assert node.is_whole(theirs, acme)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/path?region=eu!&secret=x", "s3://bucket/path"),
        ("ftp://bucket/path?secret=x", "ftp://bucket/path"),
        ("file:///etc", "file:///etc"),
        ("https://a.example/cache?signature=x", "https://a.example/cache"),
    ],
)
def test_a_location_of_another_kind_is_refused_in_a_sentence(
    node: Node, acme: Publisher, url: str, shown: str
) -> None:
    app = acme.add("app", b"app")
    variables = (("AWS_SECRET_ACCESS_KEY", SECRET),) if url.startswith("s3") else ()

    with pytest.raises(errors.NotFound) as refused:
        node.realize(app, location(url, acme, app, variables=variables))

    assert f"{shown}: FloxHub keeps it there" in str(refused.value)
    assert "store.caches" in str(refused.value)
    assert "secret=x" not in messages_of(refused.value)
    assert SECRET not in messages_of(refused.value)


def test_a_key_that_cannot_be_read_trusts_nothing(
    node: Node, acme: Publisher, site: FileServer
) -> None:
    app = acme.add("app", b"app")

    with pytest.raises(errors.SignatureUntrusted):
        node.realize(app, location(site.url, acme, app, public_keys=("nonsense",)))


def test_no_secret_is_in_errors_logs_or_files(
    node: Node,
    acme: Publisher,
    site: FileServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    app = acme.add("app", b"app")
    with_login = location(site.url.replace("//", f"//unused:{SECRET}@"), acme, app)
    for fault in (Status(500), Status(403)):
        site.fail("*.narinfo", fault)
        with pytest.raises(errors.CriProxyError) as refused:
            node.realize(app, with_login)
        assert SECRET not in messages_of(refused.value)
        site.heal()

    node.realize(app, with_login)

    assert SECRET not in caplog.text
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes()


def test_find_asks_the_caches_also_for_what_is_present(
    node: Node, public: Publisher, acme: Publisher, site: FileServer
) -> None:
    app = acme.add("app", b"app")
    node.realize(app, location(site.url, acme, app))

    node.call(protocol.FIND, Find((app.basename,), (location(site.url, acme, app),)))
    with pytest.raises(errors.NotFound):
        node.call(protocol.FIND, Find((app.basename,)))


def test_a_mark_without_its_path_is_dropped_and_a_path_keeps_its_mark(
    node: Node, acme: Publisher, site: FileServer
) -> None:
    app, gone = acme.add("app", b"app"), acme.add("gone", b"gone")
    for each in (app, gone):
        node.realize(each, location(site.url, acme, each))
    records = node.store.directory / ".narinfo"
    for file in records.glob(f"{gone.basename}.*"):
        if not file.name.endswith(".reserved"):
            file.unlink()

    Store(node.store.directory).recover()

    assert not list(records.glob(f"{gone.basename}*"))
    assert not node.store.has(gone)
    assert node.store.is_reserved(app)
    assert node.is_whole(app, acme)
