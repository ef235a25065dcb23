"""The worker's jobs with the node's Nix: the closure of some roots, all of it verified on disk.

In this order: the roots of Nix's collector, realising, the closure from Nix's database, and then a
look at the disk. Nix believes its database, which is wrong about a path that was altered or removed
behind its back: so each path must exist, and the first time it is used it must have the contents
that the database records. One that has not is repaired, if Nix can, or refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import nixbase32
from cri_proxy.lib.job import Jobs, Task
from cri_proxy.model import environments, storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import nar, protocol
from cri_proxy.store.nix import programs
from cri_proxy.store.nix.programs import Programs
from cri_proxy.store.nix.roots import Roots
from cri_proxy.store.protocol import Fact, NixProgress

TIDY_SECONDS: Final = 3600.0
_HASHING: Final = 2
_COPYING: Final = re.compile(r"copying path '([^']+)'")
_TO_FETCH: Final = re.compile(r"(?:these|this) (\d+ )?paths? will be fetched")


@dataclass(frozen=True, slots=True)
class Valid:
    """A path in Nix's database: sha256 and size of its archive, and what it refers to."""

    path: StorePath
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]


def jobs(root: Path, nix: Programs) -> Jobs:
    """Return the jobs."""
    realising = Realising(root, nix)
    return Jobs(
        protocol.NIX_REALISE.run_by(realising.realise),
        protocol.NIX_FIND.run_by(realising.find),
        protocol.NIX_RECOVER.run_by(realising.recover),
    )


class Realising:
    """The jobs' methods; safe for threads."""

    def __init__(self, root: Path, nix: Programs) -> None:
        self._root = root
        self._programs = nix
        self._roots = Roots(nix.state)
        self._verified = root / "nix" / "verified"
        self._tidied_at = time.monotonic()

    def realise(self, argument: list[str], task: Task[NixProgress]) -> list[Fact]:
        """Bring the closure of the roots to Nix's store; see the module."""
        paths = [storepaths.of_basename(each) for each in argument]
        self._programs.find()
        if time.monotonic() - self._tidied_at > TIDY_SECONDS:
            self._tidy()
        self._roots.add(paths)
        copied = 0

        def listen(line: str) -> None:
            nonlocal copied
            if _COPYING.search(line):
                copied += 1
                task.report(NixProgress(copied=copied))
            elif match := _TO_FETCH.search(line):
                task.report(NixProgress(total=int(match[1] or 1)))

        names = [str(each) for each in paths]
        self._programs.run(["--realise", *names], listen, task.check)
        closure = self.closure_of(names)
        self._prove(closure, task)
        return [
            Fact(each.path.basename, tuple(x.basename for x in each.references), each.nar_size)
            for each in closure
        ]

    def find(self, argument: list[str], task: Task[None]) -> None:
        """Raise what `realise` would if a path is neither here nor in a cache."""
        names = [str(storepaths.of_basename(each)) for each in argument]
        printed: list[str] = []
        afresh = ("--option", "narinfo-cache-positive-ttl", "0")
        self._programs.run(["--realise", "--dry-run", *afresh, *names], printed.append, task.check)
        if any("don't know how to build" in line for line in printed):  # for Nix no failure
            raise programs.refusal_of(printed, 0)

    def recover(self, argument: None, task: Task[None]) -> None:
        """Find Nix, create the directories, and remove the roots of what no environment has."""
        self._programs.find()
        self._verified.mkdir(parents=True, exist_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        self._tidied_at = time.monotonic()
        kept: set[str] = set()
        for place in (self._root / "environments").glob("[!.]*/environment.json"):
            try:
                found = environments.load(place.parent)
            except errors.ContentDamaged:
                return  # what it holds is not known, so nothing is removed
            kept.update(each.basename for each in (found.closure if found else ()))
        self._roots.tidy(kept)

    def closure_of(self, names: Sequence[str]) -> list[Valid]:
        """Return what Nix's database records of the closure of some paths."""
        listed = sorted(set(self._programs.query("--query", "--requisites", paths=names).split()))
        return validity_of(self._programs.query("--dump-db", paths=listed))

    def _prove(self, closure: Iterable[Valid], task: Task[NixProgress]) -> None:
        """Verify that every path exists and, the first time, is what the database records."""

        def prove(valid: Valid) -> None:
            task.check()
            if self._is_sound(valid):
                return
            try:
                self._programs.run(["--repair-path", str(valid.path)], check=task.check)
            except errors.CriProxyError as error:
                raise _damage(valid, str(error)) from error
            if not self._is_sound(valid):
                raise _damage(valid, "repairing it did not help")

        with ThreadPoolExecutor(_HASHING, thread_name_prefix="prove") as executor:
            for _ in executor.map(prove, closure):
                pass

    def _is_sound(self, valid: Valid) -> bool:
        place = self._programs.store / valid.path.basename
        mark = self._verified / valid.path.basename
        try:
            status = place.lstat()
        except FileNotFoundError:
            mark.unlink(missing_ok=True)
            return False
        known = f"{nixbase32.encode(valid.nar_hash)} {status.st_ino}\n"
        with contextlib.suppress(FileNotFoundError):
            if mark.read_text() == known:
                return True
        try:
            is_sound = nar.digest_of(place) == (valid.nar_hash, valid.nar_size)
        except (OSError, errors.ContentDamaged):
            is_sound = False
        if is_sound:
            self._verified.mkdir(parents=True, exist_ok=True)
            beside = mark.with_name(f".{mark.name}.{os.getpid()}")
            beside.write_text(known)
            beside.rename(mark)
        return is_sound


def validity_of(text: str) -> list[Valid]:
    """Return the paths in a validity registration (`nix-store --dump-db`, libstore/store-api.cc).

    A path has these lines: itself, hash in base 16, size, deriver, how many references, and these.
    Raises ContentDamaged for anything else.
    """
    lines = iter(text.splitlines())
    found = []
    try:
        for line in lines:
            path = storepaths.parse(line)
            nar_hash = bytes.fromhex(next(lines))
            nar_size = int(next(lines))
            next(lines)
            references = tuple(storepaths.parse(next(lines)) for _ in range(int(next(lines))))
            found.append(Valid(path, nar_hash, nar_size, references))
    except (StopIteration, ValueError, RuntimeError, errors.RequestInvalid) as error:
        raise errors.ContentDamaged(
            f"Nix's database is not in the form that is known ({error}): see nix-store --dump-db"
        ) from error
    return found


def _damage(valid: Valid, why: str) -> errors.ContentDamaged:
    return errors.ContentDamaged(
        f"{valid.path} on this node is not what Nix's database says of it: run nix-store --verify "
        f"--check-contents --repair ({why})"
    )
