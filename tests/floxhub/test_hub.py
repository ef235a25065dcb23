"""References resolved against a FloxHub: what is live, who may, what is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.floxhub.hub import Hub, Resolution
from cri_proxy.floxhub.records import ACCEPTED_SECONDS
from cri_proxy.model import references
from hack.testbed.floxhub import FloxHub
from hack.testbed.web import Reset, Status, Truncation
from tests.floxhub.conftest import LOCKFILES, TIMEOUT_SECONDS, lockfile

HubOf = Callable[[FloxHub], Hub]

WEB = references.parse("alice/web")
SECRET = "flox_pat_very-secret"


@pytest.fixture
def hub(local: FloxHub, hub_of: HubOf) -> Hub:
    return hub_of(local)


def content(resolution: Resolution) -> object:
    return json.loads(resolution.lockfile.read_bytes())


# What a reference means, for every kind of server.


def test_the_live_generation_is_resolved_pinned(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    floxhub.push("alice", "web", lockfile("hello_as_greeting"))

    resolution = hub_of(floxhub).resolve(WEB, None)

    assert str(resolution.reference) == "alice/web:2"
    assert resolution.revision == floxhub.meta.head("alice", "web")
    assert content(resolution) == lockfile("hello_as_greeting")
    assert resolution.lock_digest == hashlib.sha256(resolution.lockfile.read_bytes()).hexdigest()
    assert not resolution.is_stale


def test_a_pinned_generation_is_resolved_whatever_is_live(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    floxhub.push("alice", "web", lockfile("hello_as_greeting"))

    resolution = hub_of(floxhub).resolve(WEB.at(1), None)

    assert str(resolution.reference) == "alice/web:1"
    assert content(resolution) == lockfile("bash")


def test_a_generation_that_is_made_live_again_is_resolved(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    floxhub.push("alice", "web", lockfile("hello_as_greeting"))
    hub = hub_of(floxhub)
    assert hub.resolve(WEB, None).reference.generation == 2

    floxhub.set_live("alice", "web", 1)

    assert hub.resolve(WEB, None).reference.generation == 1


def test_metadata_of_version_1_is_understood(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"), metadata_version=1)
    floxhub.push("alice", "web", lockfile("bash"), metadata_version=1)

    assert hub_of(floxhub).resolve(WEB, None).reference.generation == 2


def test_a_name_that_begins_like_another_is_not_confused(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web-2", lockfile("bash"))
    floxhub.push("alice", "web.b", lockfile("bash"))
    hub = hub_of(floxhub)

    with pytest.raises(errors.NotFound, match="alice/web does not exist on FloxHub, though its"):
        hub.resolve(WEB, None)

    floxhub.push("alice", "web", lockfile("hello_as_greeting"))
    assert content(hub.resolve(WEB, None)) == lockfile("hello_as_greeting")


def test_an_unchanged_head_is_not_fetched_again(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    first = hub_of(floxhub).resolve(WEB, None)
    fetched = floxhub.packs_sent
    asked = floxhub.count()

    again = hub_of(floxhub).resolve(WEB, None)
    pinned = hub_of(floxhub).resolve(WEB.at(1), None)

    assert again == first == pinned
    assert floxhub.packs_sent == fetched
    assert floxhub.count() > asked


def test_an_owner_or_environment_that_does_not_exist_is_not_found(
    floxhub: FloxHub, hub_of: HubOf
) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    hub = hub_of(floxhub)

    with pytest.raises(errors.NotFound, match=r"bob/web does not exist on FloxHub.*is private"):
        hub.resolve(references.parse("bob/web"), None)
    with pytest.raises(errors.NotFound, match=r"bob/web does not exist.*the token has no access"):
        hub.resolve(references.parse("bob/web"), SECRET)
    with pytest.raises(errors.NotFound, match=r"alice/db does not exist.*check the environment's"):
        hub.resolve(references.parse("alice/db"), None)


def test_a_generation_that_does_not_exist_is_not_found_and_fetched_once(
    floxhub: FloxHub, hub_of: HubOf
) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    hub = hub_of(floxhub)

    for _ in range(3):
        with pytest.raises(errors.NotFound, match="alice/web:9 does not exist"):
            hub.resolve(WEB.at(9), None)

    assert floxhub.packs_sent == 1


def test_a_private_environment_is_given_to_its_token_only(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    floxhub.require_token("alice", SECRET)
    hub = hub_of(floxhub)

    assert hub.resolve(WEB, SECRET).reference.generation == 1
    assert {(each.user, each.password) for each in floxhub.requests} == {("oauth", SECRET)}
    with pytest.raises(errors.AccessDenied, match="requires a token for alice/web"):
        hub.resolve(WEB, None)
    with pytest.raises(errors.AccessDenied, match="refuses the token for alice/web"):
        hub.resolve(WEB, "another")


def test_a_large_environment_with_a_long_history_is_read(floxhub: FloxHub, hub_of: HubOf) -> None:
    for number in range(12):
        noise = hashlib.sha512(str(number).encode()).hexdigest() * 2000
        floxhub.push("alice", "web", {**lockfile("bash"), "noise": noise, "number": number})

    resolution = hub_of(floxhub).resolve(WEB.at(5), None)

    found = content(resolution)
    assert isinstance(found, dict)
    assert found["number"] == 4


# Tokens and callers.


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_whether_a_token_was_given(local: FloxHub, hub: Hub, status: int) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", status=status)

    with pytest.raises(errors.AccessDenied, match=rf"HTTP {status}.*mount a secret with the key"):
        hub.resolve(WEB, None)
    with pytest.raises(errors.AccessDenied, match=rf"refuses the token .*HTTP {status}.*renew it"):
        hub.resolve(WEB, SECRET)


def test_a_server_that_hides_what_is_missing_is_worded_so(local: FloxHub, hub: Hub) -> None:
    local.hide_missing()

    with pytest.raises(
        errors.AccessDenied, match=r"requires a token for bob/x.*private or does not exist"
    ):
        hub.resolve(references.parse("bob/x"), None)


def test_a_cached_environment_needs_an_accepted_token_all_the_same(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", SECRET)
    hub.resolve(WEB, SECRET)

    with pytest.raises(errors.AccessDenied):
        hub.resolve(WEB.at(1), None)
    with pytest.raises(errors.AccessDenied):
        hub.resolve(WEB.at(1), "another")


def test_what_one_caller_fetched_another_that_is_accepted_need_not(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", SECRET, "another")

    hub.resolve(WEB, SECRET)
    hub.resolve(WEB, "another")

    assert local.packs_sent == 1


@pytest.mark.parametrize("token", ["", "  \n", None])
def test_no_token_is_no_authorization(local: FloxHub, hub: Hub, token: str | None) -> None:
    local.push("alice", "web", lockfile("bash"))

    hub.resolve(WEB, token)

    assert {each.password for each in local.requests} == {None}


def test_the_newline_of_a_token_file_is_not_part_of_the_token(local: FloxHub, hub: Hub) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", SECRET)

    hub.resolve(WEB, f"{SECRET}\n")


@pytest.mark.parametrize("token", ["two words", "a\nb", "tökén", "\x00"])
def test_what_cannot_be_a_token_is_refused_unsent(local: FloxHub, hub: Hub, token: str) -> None:
    with pytest.raises(errors.AccessDenied, match="the FloxHub token has") as refusal:
        hub.resolve(WEB, token)

    assert token not in str(refusal.value)
    assert local.count() == 0


@pytest.mark.parametrize(
    "fault", [Status(401), Status(404), Status(500), Status(200, b"<html>"), Truncation(3), Reset()]
)
def test_no_message_and_no_file_has_the_token(
    local: FloxHub, tmp_path: Path, hub: Hub, fault: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, SECRET)
    local.push("alice", "web", lockfile("bash"))
    local.fail("*", fault)  # type: ignore[arg-type]

    try:
        hub.resolve(WEB.at(2), SECRET)
    except errors.CriProxyError as refusal:
        chain: BaseException | None = refusal
        while chain is not None:
            assert SECRET not in repr(chain)
            chain = chain.__cause__ or chain.__context__
    assert SECRET not in caplog.text
    for file in (tmp_path / "node").rglob("*"):
        assert SECRET not in file.name
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


# FloxHub away.


@pytest.fixture(
    params=["stopped", "503", "429", "reset"],
)
def away(request: pytest.FixtureRequest, local: FloxHub) -> Callable[[], None]:
    """Return what makes FloxHub unreachable in one of several ways."""
    ways: dict[str, Callable[[], None]] = {
        "stopped": local.stop,
        "503": lambda: local.fail("*", Status(503)),
        "429": lambda: local.fail("*", Status(429)),
        "reset": lambda: local.fail("*", Reset()),
    }
    return ways[request.param]


def test_the_last_known_generation_stands_in_and_says_so(
    local: FloxHub, hub_of: HubOf, away: Callable[[], None]
) -> None:
    local.push("alice", "web", lockfile("bash"))
    before = hub_of(local).resolve(WEB, None)
    hub = hub_of(local)
    away()

    live, pinned = hub.resolve(WEB, None), hub.resolve(WEB.at(1), None)

    assert live.is_stale
    assert pinned == live
    assert (live.reference, live.lockfile) == (before.reference, before.lockfile)


def test_without_anything_known_the_refusal_says_why(
    local: FloxHub, hub: Hub, away: Callable[[], None]
) -> None:
    local.push("alice", "web", lockfile("bash"))
    away()

    with pytest.raises(
        errors.SourceUnreachable, match=r"gave no answer about alice/web: .*; and this node has no"
    ):
        hub.resolve(WEB, None)


def test_when_floxhub_is_back_it_is_asked_again(local: FloxHub, hub: Hub) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    local.stop()
    assert hub.resolve(WEB, None).is_stale

    local.push("alice", "web", lockfile("hello_as_greeting"))
    local.start()

    resolution = hub.resolve(WEB, None)
    assert resolution.reference.generation == 2
    assert not resolution.is_stale


def test_a_stale_answer_is_given_to_whom_floxhub_gave_it(local: FloxHub, hub: Hub) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", SECRET)
    hub.resolve(WEB, SECRET)
    local.stop()

    assert hub.resolve(WEB, SECRET).is_stale
    with pytest.raises(errors.SourceUnreachable, match="that this token was accepted for"):
        hub.resolve(WEB, "another")
    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB, None)


def test_a_stale_answer_is_what_that_caller_saw_not_what_another_did(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    local.require_token("alice", SECRET)
    local.push("alice", "web", lockfile("hello_as_greeting"))
    hub.resolve(WEB, SECRET)
    local.stop()

    assert hub.resolve(WEB, SECRET).reference.generation == 2
    assert hub.resolve(WEB, None).reference.generation == 1
    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB.at(2), None)


@pytest.mark.parametrize("refusal", ["denied", "deleted"])
def test_who_was_refused_gets_nothing_stale_afterwards(
    local: FloxHub, hub: Hub, refusal: str
) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    if refusal == "denied":
        local.require_token("alice", SECRET)
    else:
        local.meta.delete("alice", "web")
    with pytest.raises((errors.AccessDenied, errors.NotFound)):
        hub.resolve(WEB, None)
    local.stop()

    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB, None)


def test_asking_for_a_generation_that_does_not_exist_takes_nothing_away(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    with pytest.raises(errors.NotFound):
        hub.resolve(WEB.at(2), None)
    local.stop()

    assert hub.resolve(WEB, None).is_stale
    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB.at(2), None)


def test_a_permission_by_token_lapses_and_what_is_public_does_not(
    local: FloxHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    hub.resolve(WEB, SECRET)
    local.stop()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + ACCEPTED_SECONDS + 60)

    assert hub.resolve(WEB, None).is_stale
    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB, SECRET)


def test_a_new_head_whose_pack_does_not_arrive_leaves_the_old_one(local: FloxHub, hub: Hub) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, None)
    local.push("alice", "web", lockfile("hello_as_greeting"))
    local.fail("POST *", Truncation(100))

    resolution = hub.resolve(WEB, None)

    assert resolution.is_stale
    assert resolution.reference.generation == 1


# Damage.


def test_a_pack_that_is_cut_without_notice_is_damage(floxhub: FloxHub, hub_of: HubOf) -> None:
    floxhub.push("alice", "web", lockfile("bash"))
    floxhub.fail("POST *", Truncation(700, is_silent=True))

    with pytest.raises(errors.ContentDamaged, match="alice/web"):
        hub_of(floxhub).resolve(WEB, None)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"README": b"no environment"},
        {"metadata.json": b"{}"},
        {"metadata.json": b"\x00"},
        {"metadata.json/x": b"a directory"},
        {"metadata.json": b'{"version":2,"history":[],"total_generations":0}'},
        {"metadata.json": b'{"version":9}'},
        {"metadata.json": b'{"version":1,"currentGen":"1","generations":{"1":{}}}'},
        {
            "metadata.json": b'{"version":1,"currentGen":"1","generations":{"1":{}}}',
            "1/env/manifest.lock/x": b"a directory",
        },
        {"metadata.json": b'{"version":1,"currentGen":"1","generations":{"1":{}}}', "1": b"file"},
    ],
)
def test_a_branch_that_holds_no_environment_is_refused(
    local: FloxHub, hub: Hub, files: dict[str, bytes]
) -> None:
    local.meta.write("alice", "web", files)

    with pytest.raises(
        (errors.ContentDamaged, errors.NotFound, errors.EnvironmentUnsuitable), match="alice/web"
    ):
        hub.resolve(WEB, None)


def test_a_generation_without_a_lockfile_is_unsuitable(local: FloxHub, hub: Hub) -> None:
    local.push("alice", "web", None)

    with pytest.raises(errors.EnvironmentUnsuitable, match="alice/web:1 was pushed without a man"):
        hub.resolve(WEB, None)


@pytest.mark.parametrize("damage", [b"", b"{}", None])
@pytest.mark.parametrize("kind", ["lock", "metadata", "generation", "head"])
def test_a_damaged_record_is_fetched_again(
    local: FloxHub, hub: Hub, tmp_path: Path, kind: str, damage: bytes | None
) -> None:
    local.push("alice", "web", lockfile("bash"))
    before = hub.resolve(WEB, None)
    node = tmp_path / "node"
    file = {
        "lock": before.lockfile,
        "metadata": node / "revisions" / before.revision / "metadata",
        "generation": node / "revisions" / before.revision / "1",
        "head": node / "heads" / "alice" / "web" / "public",
    }[kind]
    assert file.is_file()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)

    assert hub.resolve(WEB, None) == before
    assert hashlib.sha256(before.lockfile.read_bytes()).hexdigest() == before.lock_digest


def test_a_damaged_lockfile_is_never_given_out_while_floxhub_is_away(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", lockfile("bash"))
    before = hub.resolve(WEB, None)
    before.lockfile.write_bytes(b"something else")
    local.stop()

    with pytest.raises(errors.SourceUnreachable):
        hub.resolve(WEB, None)


# Many at once.


def test_many_threads_share_one_hub(floxhub: FloxHub, hub_of: HubOf) -> None:
    for name in ("web", "db", "queue"):
        floxhub.push("alice", name, {**lockfile("bash"), "number": 1, "of": name})
        floxhub.push("alice", name, {**lockfile("bash"), "number": 2, "of": name})
    hub = hub_of(floxhub)
    asked = [
        references.parse(f"alice/{name}{generation}")
        for name in ("web", "db", "queue")
        for generation in (":1", ":2", "")
    ] * 6
    barrier = threading.Barrier(16)

    def resolve(number: int) -> list[Resolution]:
        barrier.wait(TIMEOUT_SECONDS)
        return [hub.resolve(each, None) for each in asked[number::16]]

    with ThreadPoolExecutor(16) as pool:
        for found, number in zip(pool.map(resolve, range(16)), range(16), strict=True):
            for reference, resolution in zip(asked[number::16], found, strict=True):
                said = content(resolution)
                assert isinstance(said, dict)
                assert said["of"] == reference.name
                assert said["number"] == (reference.generation or 2)
                assert not resolution.is_stale


def test_resolving_while_others_push_gives_one_generation_or_the_next(
    local: FloxHub, hub: Hub
) -> None:
    local.push("alice", "web", {**lockfile("bash"), "number": 1})
    stop = threading.Event()

    def resolve() -> Iterator[Resolution]:
        while not stop.is_set():
            yield hub.resolve(WEB, None)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(lambda: list(resolve())) for _ in range(4)]
        for number in range(2, 8):
            local.push("alice", "web", {**lockfile("bash"), "number": number})
        stop.set()
        found = [each for run in running for each in run.result(TIMEOUT_SECONDS)]

    for resolution in found:
        said = content(resolution)
        assert isinstance(said, dict)
        assert said["number"] == resolution.reference.generation


def test_several_nodes_hubs_share_a_directory(local: FloxHub, hub_of: HubOf) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.require_token("alice", SECRET)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: hub_of(local).resolve(WEB, SECRET), range(8)))
    local.stop()

    assert len(set(made)) == 1
    assert hub_of(local).resolve(WEB, SECRET).is_stale


# What lies on disk.


def test_records_are_for_root_only(local: FloxHub, hub: Hub, tmp_path: Path) -> None:
    local.push("alice", "web", lockfile("bash"))
    hub.resolve(WEB, SECRET)

    node = tmp_path / "node"
    files = [each for each in node.rglob("*") if each.is_file()]
    assert len(files) == 5
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    assert node.stat().st_mode & 0o777 == 0o700


def test_what_was_not_used_for_long_is_dropped_and_what_was_stays(
    local: FloxHub, hub: Hub, tmp_path: Path
) -> None:
    local.push("alice", "web", lockfile("bash"))
    local.push("alice", "db", lockfile("hello_as_greeting"))
    old = hub.resolve(WEB, None)
    hub.resolve(references.parse("alice/db"), None)
    long_ago = time.time() - 1000
    for file in (tmp_path / "node").rglob("*"):
        os.utime(file, (long_ago, long_ago))
    kept = hub.resolve(references.parse("alice/db"), None)

    assert hub.records.drop_older_than(500) == 4

    assert not old.lockfile.exists()
    assert kept.lockfile.exists()
    assert hub.resolve(references.parse("alice/db"), None) == kept
    assert hub.resolve(WEB, None) == old


@pytest.mark.parametrize("file", sorted(LOCKFILES.glob("*.lock")), ids=lambda file: file.stem)
def test_lockfiles_arrive_byte_for_byte(local: FloxHub, hub: Hub, file: Path) -> None:
    local.push("alice", "web", file.read_bytes())

    assert hub.resolve(WEB, None).lockfile.read_bytes() == file.read_bytes()
