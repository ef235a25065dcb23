"""The git side of FloxHub: the head of one environment's branch, and the pack of its commit.

Every owner has a repository `<git url>/<owner>/floxmeta`, in which each environment is a branch of
its own name. A branch is read by smart HTTP: its head is asked for, and only when the caller does
not know that commit is its pack fetched, of this one commit (depth 1). With protocol 2 the server
lists this branch alone; servers of older protocols list all, and the branch is picked here.

dulwich speaks the protocol, `transport` carries it, `pack` opens what comes. Tokens go as the
password of HTTP Basic, user `oauth`, as Flox's own client sends them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from dulwich.client import AbstractHttpGitClient
from dulwich.errors import GitProtocolError
from dulwich.objects import ObjectID
from dulwich.refs import Ref

from cri_proxy import errors
from cri_proxy.floxhub import fields, pack
from cri_proxy.floxhub.transport import Deadline, RequestSubject, Transport
from cri_proxy.http.client import Request, WholeResponse
from cri_proxy.model.references import Reference

if TYPE_CHECKING:
    from dulwich.client import HTTPResponse

REFS_LIMIT: Final = 16 * 1024 * 1024
PACK_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of the largest list of branches and of the largest pack that are read."""

_USER: Final = "oauth"
_MOVES: Final = 5
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class BranchHead:
    """A branch's commit, and its pack unless the caller knew the commit."""

    revision: str
    pack: bytes | None


class Repositories:
    """All owners' repositories below one git URL; threads share it."""

    def __init__(self, git_url: str, transport: Transport) -> None:
        self._git_url = git_url.rstrip("/")
        self._transport = transport

    def head_of(
        self,
        reference: Reference,
        token: str | None,
        deadline: Deadline,
        *,
        is_known: Callable[[str], bool],
    ) -> BranchHead:
        """Return the head of the environment's branch, without a pack if the head `is_known`.

        The branch may be pushed to between the two requests, for its head and for the pack. Servers
        differ on whether they still serve the old head then, so a fetch that fails is retried with
        the new one.

        Raises AccessDenied, NotFound, SourceUnreachable and ContentDamaged.
        """
        for _ in range(_MOVES):
            seen: list[str] = []
            try:
                return self._fetch(reference, token, deadline, is_known=is_known, seen=seen)
            except errors.ContentDamaged:
                if not seen:
                    raise
                now = self._fetch(reference, token, deadline, is_known=lambda _: True, seen=[])
                if now.revision == seen[0] and not is_known(now.revision):
                    raise
        raise errors.SourceUnreachable(
            f"{reference.owner}/{reference.name} is being pushed to FloxHub again and again while "
            f"it is read: try again"
        )

    def _fetch(
        self,
        reference: Reference,
        token: str | None,
        deadline: Deadline,
        *,
        is_known: Callable[[str], bool],
        seen: list[str],
    ) -> BranchHead:
        """Fetch once; the head is put into `seen` as soon as it is known."""
        subject = RequestSubject(f"{reference.owner}/{reference.name}", token is not None)
        client = _Client(
            f"{self._git_url}/{reference.owner}/floxmeta/",
            lambda request, limit: self._transport.ask(request, limit, subject, deadline),
            {} if token is None else {"authorization": f"Basic {_login(token)}"},
        )
        branch = Ref(f"refs/heads/{reference.name}".encode("ascii"))

        def wanted(refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
            if branch not in refs:
                raise errors.NotFound(
                    f"{subject.name} does not exist on FloxHub, though its owner "
                    f"{reference.owner} does: check the environment's name, or push it"
                )
            head = refs[branch].decode("ascii")
            if not _COMMIT.fullmatch(head):
                raise ValueError("the branch's head is no commit")
            seen.append(head)
            return [] if is_known(head) else [refs[branch]]

        content = BytesIO()
        with _faults_of(subject):
            client.fetch_pack("", wanted, _Newcomer(), content.write, depth=1, ref_prefix=[branch])
        return BranchHead(seen[0], content.getvalue() or None)


class _Newcomer:
    """The graph walker of a client that has no commit yet."""

    shallow: Final[set[ObjectID]] = set()

    def __next__(self) -> None:
        return None

    def ack(self, sha: ObjectID) -> None:
        pass

    def nak(self) -> None:
        pass


class _Response:
    """A response in the form that dulwich reads."""

    def __init__(self, answer: WholeResponse, asked: str) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.content_type: str | None = answer.headers.get("content-type", "")
        self.redirect_location = answer.url if answer.url != asked else ""
        self.read = BytesIO(answer.body).read
        self.geturl = lambda: answer.url

    def close(self) -> None:
        """Do nothing: the response is complete, and its connection went back to the pool."""


class _Client(AbstractHttpGitClient):
    """dulwich's smart HTTP client over our transport; for one fetch."""

    def __init__(
        self, base_url: str, ask: Callable[[Request, int], WholeResponse], headers: dict[str, str]
    ) -> None:
        # A thin pack leaves out what the client has. We never have anything, so no pack is thin;
        # but dulwich's own server refuses clients that would not take one.
        super().__init__(base_url, thin_packs=True, quiet=True)
        self._ask = ask
        self._headers = headers

    def _get_url(self, path: str | bytes) -> str:
        return self._base_url

    def _http_request(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
        raise_for_status: bool = True,
    ) -> tuple[HTTPResponse, Callable[[int], bytes]]:
        body = data if data is None or isinstance(data, bytes) else b"".join(data)
        headers = {**(headers or {}), **self._headers}
        if body is None:
            answer = self._ask(Request(url, headers), REFS_LIMIT)
        else:
            answer = self._ask(Request(url, headers, "POST", body), PACK_LIMIT)
        content_type = answer.headers.get("content-type", "")
        if not content_type.startswith("application/x-git-"):
            raise GitProtocolError(f"content of type {content_type[:60]!a} is no git")
        response = _Response(answer, url)
        return response, response.read


def _login(token: str) -> str:
    return base64.b64encode(f"{_USER}:{token}".encode()).decode()


@contextmanager
def _faults_of(subject: RequestSubject) -> Iterator[None]:
    """Raise ContentDamaged for dulwich's errors about a server that breaks git's protocol."""
    try:
        yield
    except (GitProtocolError, *pack.FAULTS) as error:
        reason = type(error).__name__
        if isinstance(error, GitProtocolError):
            reason = fields.shown(str(error)) or "it ends early"
        raise errors.ContentDamaged(
            f"FloxHub's answer about {subject.name} is not proper git ({reason}): check FloxHub's "
            f"URL in the settings"
        ) from error
