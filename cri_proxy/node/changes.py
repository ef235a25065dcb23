"""Changes to a node's files, recorded in a journal so that each can be undone.

    /var/lib/cri-proxy-install/
        journal.json        steps in their order: path, what was there before, what we wrote
        originals/<n>       the original of a changed file

A step is in the journal and on disk before the node is changed, so that any later run can undo it
after a crash. Steps are undone in reverse order, restoring content, mode, owner and modification
time. A file that another program has changed since is not overwritten: only our own words in it are
replaced by the original ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from cri_proxy import errors
from cri_proxy.node.root import Root

DIRECTORY: Final = "/var/lib/cri-proxy-install"
_EDITION: Final = 1

Kind = Literal["absent", "file", "link", "directory"]


@dataclass(frozen=True, slots=True)
class Step:
    """A change to one path: what was there before, and the digest of what we wrote."""

    path: str
    was: Kind
    original: str | None = None
    """The name of the copy of a file, or the target of a link."""
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    modified_ns: int = 0
    digest: str = ""
    words: tuple[str, str] | None = None
    """Our words in another program's file, and the original ones."""


@dataclass(slots=True)
class _Record:
    runtime: str | None = None
    settings: str | None = None
    steps: list[Step] = field(default_factory=list)


class Journal:
    """The changes to one node, made and undone."""

    def __init__(self, root: Root) -> None:
        """Load the journal of earlier installations."""
        self._root: Final = root
        self._directory: Final = root.real(DIRECTORY)
        self._record = _Record()
        with contextlib.suppress(FileNotFoundError):
            raw = json.loads((self._directory / "journal.json").read_text())
            if raw["edition"] != _EDITION:
                raise errors.RequestInvalid(
                    f"{DIRECTORY} was written by another version of cri-proxy: use that version to "
                    "install or uninstall"
                )
            steps = [
                Step(
                    **{
                        **each,
                        "owner": tuple(each["owner"]),
                        "words": None if each["words"] is None else tuple(each["words"]),
                    }
                )
                for each in raw["steps"]
            ]
            self._record = _Record(raw["runtime"], raw["settings"], steps)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is installed on the node."""
        return not self._record.steps

    @property
    def runtime(self) -> str | None:
        """The runtime's socket, as found by an earlier installation."""
        return self._record.runtime

    @property
    def length(self) -> int:
        """The number of steps so far, as an argument for `undo`."""
        return len(self._record.steps)

    @property
    def settings(self) -> str | None:
        """The digest of the settings file that the daemon was started with."""
        return self._record.settings

    def remember(self, *, runtime: str, settings: str | None) -> None:
        """Record what the next installation needs to know."""
        self._record.runtime, self._record.settings = runtime, settings
        self._save()

    def settle(self) -> None:
        """Merge the steps of each path into one that undoes them all: an upgrade succeeded."""
        first: dict[str, Step] = {}
        for step in self._record.steps:
            first.setdefault(step.path, step)
        last = {step.path: step for step in self._record.steps}
        self._record.steps = [
            replace(step, digest=last[path].digest, words=last[path].words)
            for path, step in first.items()
        ]
        self._save()

    def write(
        self, path: str, content: bytes, *, mode: int = 0o644, words: tuple[str, str] | None = None
    ) -> None:
        """Write a file; an existing one keeps its mode and owner."""
        place = self._root.real(path)
        self._begin(path, place, digest=hashlib.sha256(content).hexdigest(), words=words)
        before = place.stat() if place.exists() else None
        staged = _staged(place)
        _write(staged, content)
        staged.chmod(mode if before is None else stat.S_IMODE(before.st_mode))
        if before is not None:
            os.chown(staged, before.st_uid, before.st_gid)
        _sync(staged)
        staged.rename(place)
        _sync(place.parent)

    def link(self, path: str, target: str) -> None:
        """Create or retarget a symbolic link atomically."""
        place = self._root.at(path)
        self._begin(path, place, digest=f"-> {target}")
        staged = _staged(place)
        staged.unlink(missing_ok=True)
        staged.symlink_to(target)
        staged.rename(place)
        _sync(place.parent)

    def directory(self, path: str, fill: Callable[[Path], None]) -> None:
        """Create a directory, which must not exist yet, with the content that `fill` gives it."""
        place = self._root.at(path)
        self._begin(path, place, digest="directory")
        staged = _staged(place)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o755)
        fill(staged)
        staged.rename(place)
        _sync(place.parent)

    def forget(self, path: str) -> None:
        """Remove a directory of ours permanently."""
        self._record.steps = [each for each in self._record.steps if each.path != path]
        self._save()
        shutil.rmtree(self._root.at(path), ignore_errors=True)

    def directories(self) -> list[str]:
        """Return the directories that `directory` created, the latest last."""
        return [each.path for each in self._record.steps if each.digest == "directory"]

    def has_edits(self, since: int = 0) -> bool:
        """Return whether a step from index `since` on changed another program's file."""
        return any(step.words is not None for step in self._record.steps[since:])

    def undo(self, since: int = 0, *, only_edits: bool = False) -> list[str]:
        """Undo all steps from index `since` on; return the paths that other programs had changed.

        With `only_edits`, only the changes to other programs' files are undone.
        """
        foreign = []
        for index, step in reversed(list(enumerate(self._record.steps))):
            if index < since or (only_edits and step.words is None):
                continue
            if not self._restore(step):
                foreign.append(step.path)
            del self._record.steps[index]
            self._save()
        if not self._record.steps:
            shutil.rmtree(self._directory, ignore_errors=True)
        return foreign

    def _begin(
        self, path: str, place: Path, *, digest: str, words: tuple[str, str] | None = None
    ) -> None:
        """Record what is at `path` now, and create the directories above it."""
        for parent in reversed(PurePosixPath(path).parents):
            directory = self._root.real(parent)
            if not directory.exists():
                self._add(Step(str(parent), "absent", digest="parent"))
                directory.mkdir(mode=0o755)
        if place.is_symlink():
            step = Step(path, "link", original=str(place.readlink()), digest=digest)
        elif place.is_dir():
            raise errors.RequestInvalid(f"{path} is a directory: remove or rename it")
        elif place.exists():
            status = place.stat()
            originals = self._directory / "originals"
            name = next(str(each) for each in count() if not (originals / str(each)).exists())
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            originals.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(place, originals / name)
            _sync(originals / name)
            step = Step(
                path,
                "file",
                original=name,
                mode=stat.S_IMODE(status.st_mode),
                owner=(status.st_uid, status.st_gid),
                modified_ns=status.st_mtime_ns,
                digest=digest,
                words=words,
            )
        else:
            step = Step(path, "absent", digest=digest)
        self._add(step)

    def _restore(self, step: Step) -> bool:
        """Undo one step; return False if another program had changed the file."""
        is_link = step.was == "link" or step.digest.startswith("-> ")
        place = self._root.at(step.path) if is_link else self._root.real(step.path)
        if step.digest == "parent":
            with contextlib.suppress(OSError):  # not empty: other programs use it, too
                place.rmdir()
            return True
        staged = _staged(place)
        if staged.is_dir() and not staged.is_symlink():  # left by an interrupted run
            shutil.rmtree(staged)
        else:
            staged.unlink(missing_ok=True)
        match step.was:
            case "absent" if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            case "absent":
                place.unlink(missing_ok=True)
            case "link":
                staged.symlink_to(step.original or "")
                staged.rename(place)
            case _:
                return self._restore_file(step, place)
        return True

    def _restore_file(self, step: Step, place: Path) -> bool:
        original = (self._directory / "originals" / str(step.original)).read_bytes()
        content, is_ours = original, True
        if place.exists():
            now = place.read_bytes()
            is_ours = now == original or hashlib.sha256(now).hexdigest() == step.digest
            if not is_ours:
                ours, before = step.words or ("", "")
                content = now.replace(ours.encode(), before.encode()) if ours else now
        staged = _staged(place)
        _write(staged, content)
        staged.chmod(step.mode)
        os.chown(staged, *step.owner)
        if is_ours:
            os.utime(staged, ns=(step.modified_ns, step.modified_ns))
        _sync(staged)
        staged.rename(place)
        return is_ours

    def _add(self, step: Step) -> None:
        self._record.steps.append(step)
        self._save()

    def _save(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"edition": _EDITION, **asdict(self._record)}, indent=1)
        staged = self._directory / ".journal.json"
        staged.write_text(text + "\n")
        _sync(staged)
        staged.rename(self._directory / "journal.json")
        _sync(self._directory)
        used = {step.original for step in self._record.steps if step.was == "file"}
        for copy in (self._directory / "originals").glob("*"):
            if copy.name not in used:
                copy.unlink()


def _staged(place: Path) -> Path:
    """Return the temporary name of a file before it is renamed to `place`."""
    return place.with_name(f".{place.name}.cri-proxy")


def _write(staged: Path, content: bytes) -> None:
    """Write a file that is private until it gets the mode of the one it replaces."""
    staged.unlink(missing_ok=True)
    staged.touch(mode=0o600)
    staged.write_bytes(content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
