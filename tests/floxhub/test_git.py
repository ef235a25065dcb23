"""The git side, at its border: servers that speak no git, or not quite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dulwich.protocol import pkt_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import git
from cri_proxy.floxhub.transport import Deadline, Transport
from cri_proxy.model import references
from hack.testbed.floxhub import FloxHub
from hack.testbed.web import Request, Server, Status
from tests.floxhub.conftest import TIMEOUT_SECONDS, lockfile

WEB = references.parse("alice/web")
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
RESULT = "application/x-git-upload-pack-result"
HEAD = b"a" * 40


class Scripted(Server):
    """Says the same to every question of a kind, whatever it is."""

    get = b""
    post = b""

    def answer(self, request: Request) -> Status:
        if request.method == "GET":
            return Status(200, self.get, {"Content-Type": ADVERTISEMENT})
        return Status(200, self.post, {"Content-Type": RESULT})


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as served:
        yield served


def head_of(url: str, *, is_known: bool = False) -> git.BranchHead:
    return git.Repositories(url, Transport(url)).head_of(
        WEB, None, Deadline(TIMEOUT_SECONDS), is_known=lambda _: is_known
    )


def version_0(*refs: bytes) -> bytes:
    first, *rest = refs
    capabilities = b"\0shallow side-band-64k agent=test\n"
    lines = [pkt_line(first + capabilities), *(pkt_line(each + b"\n") for each in rest)]
    return pkt_line(b"# service=git-upload-pack\n") + b"0000" + b"".join(lines) + b"0000"


VERSION_2 = pkt_line(b"version 2\n") + pkt_line(b"ls-refs\n") + pkt_line(b"fetch=shallow\n")


def test_a_known_head_is_told_without_a_pack(floxhub: FloxHub) -> None:
    floxhub.push("alice", "web", lockfile("bash"))

    head = head_of(floxhub.git_url, is_known=True)

    assert head == git.BranchHead(floxhub.meta.head("alice", "web"), None)
    assert floxhub.packs_sent == 0


def test_only_the_branch_and_its_last_commit_are_asked_for(floxhub: FloxHub) -> None:
    for _ in range(3):
        floxhub.push("alice", "web", lockfile("bash"))
    floxhub.push("alice", "other", lockfile("bash"))

    head_of(floxhub.git_url)

    said = b"".join(each.body for each in floxhub.requests)
    assert b"deepen 1" in said
    assert said.count(b"want ") == 1
    if any(each.body.find(b"command=ls-refs") >= 0 for each in floxhub.requests):
        assert said.count(b"ref-prefix refs/heads/web") == 1
        assert said.count(b"ref-prefix") == 1


def test_protocol_2_is_offered_always(floxhub: FloxHub) -> None:
    floxhub.push("alice", "web", lockfile("bash"))

    head_of(floxhub.git_url)

    assert floxhub.requests[0].headers["git-protocol"] == "version=2"


@pytest.mark.parametrize(
    ("get", "post"),
    [
        (b"", b""),
        (b"0000", b""),
        (b"zzzz", b""),
        (b"0003", b""),
        (b"ffff", b""),
        (version_0(HEAD + b" refs/heads/web")[:-30], b""),
        (version_0(b"short refs/heads/web"), b""),
        (version_0(b"no-space"), b""),
        (version_0(HEAD + b" refs/heads/web"), b""),
        (version_0(HEAD + b" refs/heads/web"), b"0000"),
        (version_0(HEAD + b" refs/heads/web"), pkt_line(b"ERR upload-pack: no\x1b[31m way")),
        (version_0(HEAD + b" refs/heads/web"), pkt_line(b"shallow " + HEAD) + b"0000"),
        (
            version_0(HEAD + b" refs/heads/web"),
            pkt_line(b"shallow " + HEAD) + b"0000" + pkt_line(b"NAK\n") + pkt_line(b"\x03out"),
        ),
        (
            version_0(HEAD + b" refs/heads/web"),
            pkt_line(b"shallow " + HEAD) + b"0000" + pkt_line(b"NAK\n") + pkt_line(b"\x09?"),
        ),
        (VERSION_2 + b"0000", b""),
        (VERSION_2 + b"0000", pkt_line(b"ERR nothing for you")),
        (VERSION_2 + b"0000", pkt_line(b"nonsense") + b"0000"),
        (VERSION_2 + b"0000", pkt_line(b"\xff refs/heads/web") + b"0000"),
        (VERSION_2 + b"0000", pkt_line(b"unborn refs/heads/web") + b"0000"),
        (VERSION_2, pkt_line(HEAD + b" refs/heads/web") + b"0000"),
        (pkt_line(b"version 2\n") + b"0000", pkt_line(HEAD + b" refs/heads/web") + b"0000"),
        (pkt_line(b"version 3\n") + b"0000", b""),
    ],
)
def test_what_is_not_proper_git_is_damage_or_no_branch(
    scripted: Scripted, get: bytes, post: bytes
) -> None:
    scripted.get, scripted.post = get, post

    with pytest.raises((errors.ContentDamaged, errors.NotFound), match="alice/web") as refusal:
        head_of(scripted.url)

    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("content_type", ["text/html", "", "application/json"])
def test_a_page_instead_of_git_is_damage(scripted: Scripted, content_type: str) -> None:
    scripted.fail("*", Status(200, b"<html>log in here</html>", {"Content-Type": content_type}))

    with pytest.raises(errors.ContentDamaged, match=r"not proper git .*is no git.*FloxHub's URL"):
        head_of(scripted.url)


def test_a_pack_without_end_is_refused(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "PACK_LIMIT", 10_000)
    scripted.get = version_0(HEAD + b" refs/heads/web")
    scripted.post = b"x" * 10_001

    with pytest.raises(errors.ContentDamaged, match="more than 10000 bytes"):
        head_of(scripted.url)


@given(st.binary(), st.binary(), st.booleans(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_answers_end_in_a_refusal_or_a_pack_to_be_opened(
    scripted: Scripted, get: bytes, post: bytes, begins_well: bool, is_version_2: bool
) -> None:
    if begins_well:
        get = (VERSION_2 if is_version_2 else version_0(HEAD + b" refs/heads/web"))[:-4] + get
        post = pkt_line(post) + post
    scripted.get, scripted.post = get, post

    try:
        found = head_of(scripted.url)
    except errors.CriProxyError:
        return

    assert len(found.revision) == 40
