"""Resolution of references by FloxHub: a reference in, the lockfile of one generation out.

Every resolution asks FloxHub for the head of the environment's branch, with the caller's token:
that is the permission check, and it is made each time, even for a pinned generation whose lockfile
is on this node. Only a head that the node does not know is fetched. `records` keeps what was
learned; a lockfile is returned as a file there, whose digest has just been checked.

While FloxHub is unavailable, the head that it last showed to the same caller is used, and the
resolution is marked as stale. A caller that FloxHub has refused since, or never answered, gets
nothing that way.
"""

from __future__ import annotations

import re
from typing import Final

from cri_proxy import errors
from cri_proxy.floxhub import git, lockfile, metadata, pack, records
from cri_proxy.floxhub.protocol import HubOptions, Resolution
from cri_proxy.floxhub.transport import Deadline, Transport
from cri_proxy.lib.eventloop import Loop
from cri_proxy.model.references import Reference

_TOKEN: Final = re.compile(r"[!-~]+")


class Hub:
    """One FloxHub and what the node remembers of it; threads and processes may share it."""

    def __init__(self, options: HubOptions, loop: Loop | None = None) -> None:
        self._timeout_seconds = options.timeout_seconds
        transport = Transport(options.git_url, ca_file=options.ca_file, loop=loop)
        self._repositories = git.Repositories(options.git_url, transport)
        self.records = records.Records(options.directory)

    def resolve(self, reference: Reference, token: str | None) -> Resolution:
        """Return the generation that `reference` means now, for the bearer of `token`.

        Takes at most the hub's timeout. Raises AccessDenied, NotFound, EnvironmentUnsuitable (no
        lockfile, a later format), ContentDamaged, and SourceUnreachable when FloxHub is unavailable
        and nothing is known that this caller was shown before.
        """
        token = cleaned(token)
        caller = self.records.caller_of(reference, token)
        try:
            return self._resolve(reference, token, caller)
        except errors.SourceUnreachable as unavailable:
            remembered = self._remembered(reference, caller)
            if remembered is None:
                raise errors.SourceUnreachable(
                    f"{unavailable}; and this node has no {reference} from before to start with"
                    + (" that this token was accepted for" if token else "")
                ) from unavailable
            self.records.mark_stale(reference, caller, remembered.lock_digest)
            return remembered

    def _resolve(self, reference: Reference, token: str | None, caller: str) -> Resolution:
        try:
            head = self._repositories.head_of(
                reference,
                token,
                Deadline(self._timeout_seconds),
                is_known=lambda revision: self._is_known(reference, revision),
            )
        except (errors.AccessDenied, errors.NotFound):
            self.records.forget_head(reference, caller)
            raise
        if head.pack is not None:
            self._learn(reference, head.revision, head.pack)
        self.records.keep_head(reference, caller, head.revision)
        found = self._recalled(reference, head.revision, is_stale=False)
        if found is None:
            raise errors.InternalFault(
                f"what was just learned of {reference} is not on disk: is the disk damaged, or "
                f"does something else remove files there?"
            )
        return found

    def _is_known(self, reference: Reference, revision: str) -> bool:
        """Return whether fetching this commit would bring nothing new about the reference."""
        known = self.records.metadata(revision)
        if known is None:
            return False
        if reference.is_pinned and reference.generation not in known.generations:
            return True
        return self._recalled(reference, revision, is_stale=False) is not None

    def _remembered(self, reference: Reference, caller: str) -> Resolution | None:
        revision = self.records.head(reference, caller)
        if revision is None:
            return None
        try:
            return self._recalled(reference, revision, is_stale=True)
        except errors.NotFound:
            return None  # it may exist by now, behind the head that we know

    def _recalled(
        self, reference: Reference, revision: str, *, is_stale: bool
    ) -> Resolution | None:
        """Return the resolution at a known commit, or None unless all of it is on disk.

        Raises NotFound when the commit has no such generation.
        """
        known = self.records.metadata(revision)
        if known is None:
            return None
        generation = metadata.generation_of(known, reference)
        lock = self.records.lock(revision, generation)
        if lock is None:
            return None
        return Resolution(reference.at(generation), revision, lock.digest, lock.file, is_stale)

    def _learn(self, reference: Reference, revision: str, packed: bytes) -> None:
        """Keep what a fetched commit says about the reference.

        Lockfiles of other generations are left for when they are asked for.
        """
        environment = f"{reference.owner}/{reference.name}"
        with pack.opened(packed, revision, environment) as objects:
            content = objects.file("metadata.json")
            if content is None:
                raise errors.ContentDamaged(
                    f"{environment} has no metadata.json on FloxHub: push it again with `flox push`"
                )
            said = metadata.parse(content, reference)
            self.records.keep_metadata(revision, said)
            generation = metadata.generation_of(said, reference)
            lock = objects.file(f"{generation}/env/manifest.lock")
        if lock is None:
            raise errors.EnvironmentUnsuitable(
                f"{reference.at(generation)} was pushed without a manifest.lock: lock it by "
                f"activating or editing the environment, and push it again"
            )
        if len(lock) > lockfile.SIZE_LIMIT:
            raise errors.ContentDamaged(
                f"the lockfile of {reference.at(generation)} has {len(lock)} bytes, more than the "
                f"{lockfile.SIZE_LIMIT} that cri-proxy reads"
            )
        self.records.keep_lock(revision, generation, lock)


def cleaned(token: str | None) -> str | None:
    """Return a token without the newline of its file, None for an empty one.

    Raises AccessDenied for what cannot be a token, without showing it.
    """
    stripped = (token or "").strip()
    if stripped and not _TOKEN.fullmatch(stripped):
        raise errors.AccessDenied(
            "the FloxHub token has spaces or letters that no token has: check the secret's "
            "floxhub-token, which `flox auth token` prints"
        )
    return stripped or None
