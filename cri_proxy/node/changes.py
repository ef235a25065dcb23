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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from cri_proxy import errors
from cri_proxy.lib import durable
from cri_proxy.node.root import Root

DIRECTORY: Final = "/var/lib/cri-proxy-install"
_EDITION: Final = 1
_UNCHANGED: Final = (-1, -1)
"""The owner and group for chown(2) to leave as they are."""

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


class Journal:
    """The changes to one node, made and undone.

    `runtime` is the runtime's socket as found by an earlier installation, `settings` the digest of
    the settings file that the daemon was started with.
    """

    def __init__(self, root: Root) -> None:
        """Load the journal of earlier installations."""
        self._root: Final = root
        self._directory: Final = root.real(DIRECTORY)
        self._steps: list[Step] = []
        self.runtime: str | None = None
        self.settings: str | None = None
        with contextlib.suppress(FileNotFoundError):
            raw = json.loads((self._directory / "journal.json").read_text())
            if raw["edition"] != _EDITION:
                raise errors.RequestInvalid(
                    f"{DIRECTORY} was written by another version of cri-proxy: use that version to "
                    "install or uninstall"
                )
            self._steps = msgspec.convert(raw["steps"], list[Step])
            self.runtime, self.settings = raw["runtime"], raw["settings"]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is installed on the node."""
        return not self._steps

    @property
    def length(self) -> int:
        """The number of steps so far, as an argument for `undo`."""
        return len(self._steps)

    def remember(self, *, runtime: str, settings: str | None) -> None:
        """Record what the next installation needs to know."""
        self.runtime, self.settings = runtime, settings
        self._save()

    def settle(self) -> None:
        """Merge the steps of each path into one that undoes them all: an upgrade succeeded."""
        first: dict[str, Step] = {}
        for step in self._steps:
            first.setdefault(step.path, step)
        last = {step.path: step for step in self._steps}
        self._steps = [
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
        owner = _UNCHANGED
        if place.exists():
            before = place.stat()
            mode, owner = stat.S_IMODE(before.st_mode), (before.st_uid, before.st_gid)
        with _staged(place) as staged:
            _write(staged, content, mode, owner)

    def link(self, path: str, target: str) -> None:
        """Create or retarget a symbolic link atomically."""
        place = self._root.at(path)
        self._begin(path, place, digest=f"-> {target}")
        with _staged(place) as staged:
            staged.symlink_to(target)

    def directory(self, path: str, fill: Callable[[Path], None]) -> None:
        """Create a directory, which must not exist yet, with the content that `fill` gives it."""
        place = self._root.at(path)
        self._begin(path, place, digest="directory")
        with _staged(place) as staged:
            staged.mkdir(mode=0o755)
            fill(staged)

    def forget(self, path: str) -> None:
        """Remove a directory of ours permanently."""
        self._steps = [each for each in self._steps if each.path != path]
        self._save()
        shutil.rmtree(self._root.at(path), ignore_errors=True)

    def directories(self) -> list[str]:
        """Return the directories that `directory` created, the latest last."""
        return [each.path for each in self._steps if each.digest == "directory"]

    def has_edits(self, since: int = 0) -> bool:
        """Return whether a step from index `since` on changed another program's file."""
        return any(step.words is not None for step in self._steps[since:])

    def undo(self, since: int = 0, *, only_edits: bool = False) -> list[str]:
        """Undo all steps from index `since` on; return the paths that other programs had changed.

        With `only_edits`, only the changes to other programs' files are undone.
        """
        foreign = []
        for index, step in reversed(list(enumerate(self._steps))):
            if index < since or (only_edits and step.words is None):
                continue
            if not self._restore(step):
                foreign.append(step.path)
            del self._steps[index]
            self._save()
        if not self._steps:
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
        step = Step(path, "absent", digest=digest)
        if place.is_symlink():
            step = replace(step, was="link", original=str(place.readlink()))
        elif place.is_dir():
            raise errors.RequestInvalid(f"{path} is a directory: remove or rename it")
        elif place.exists():
            status = place.stat()
            originals = self._directory / "originals"
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            originals.mkdir(mode=0o700, exist_ok=True)
            name = next(str(each) for each in count() if not (originals / str(each)).exists())
            durable.write(originals / name, place.read_bytes())
            step = replace(
                step,
                was="file",
                original=name,
                mode=stat.S_IMODE(status.st_mode),
                owner=(status.st_uid, status.st_gid),
                modified_ns=status.st_mtime_ns,
                words=words,
            )
        self._add(step)

    def _restore(self, step: Step) -> bool:
        """Undo one step; return False if another program had changed the file."""
        is_link = step.was == "link" or step.digest.startswith("-> ")
        place = self._root.at(step.path) if is_link else self._root.real(step.path)
        if step.digest == "parent":
            with contextlib.suppress(OSError):  # not empty: other programs use it, too
                place.rmdir()
            return True
        with _staged(place) as staged:
            match step.was:
                case "absent":
                    durable.remove_tree(place)
                case "link":
                    staged.symlink_to(step.original or "")
                case _:
                    return self._restore_file(step, place, staged)
        return True

    def _restore_file(self, step: Step, place: Path, staged: Path) -> bool:
        original = (self._directory / "originals" / str(step.original)).read_bytes()
        content, is_ours = original, True
        if place.exists():
            now = place.read_bytes()
            is_ours = now == original or hashlib.sha256(now).hexdigest() == step.digest
            if not is_ours:
                ours, before = step.words or ("", "")
                content = now.replace(ours.encode(), before.encode()) if ours else now
        _write(staged, content, step.mode, step.owner, step.modified_ns if is_ours else None)
        return is_ours

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._save()

    def _save(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = {
            "edition": _EDITION,
            "runtime": self.runtime,
            "settings": self.settings,
            "steps": [asdict(step) for step in self._steps],
        }
        text = json.dumps(record, indent=1) + "\n"
        durable.write(self._directory / "journal.json", text.encode())
        used = {step.original for step in self._steps if step.was == "file"}
        for copy in (self._directory / "originals").glob("*"):
            if copy.name not in used:
                copy.unlink()


@contextlib.contextmanager
def _staged(place: Path) -> Iterator[Path]:
    """Yield a temporary name; what the body creates there is renamed to `place`."""
    staged = place.with_name(f".{place.name}.cri-proxy")
    durable.remove_tree(staged)  # left by an interrupted run
    yield staged
    if os.path.lexists(staged):
        staged.rename(place)
        durable.sync_directory(place.parent)


def _write(
    staged: Path,
    content: bytes,
    mode: int,
    owner: tuple[int, int],
    modified_ns: int | None = None,
) -> None:
    """Write a file that is private until it gets its mode, and wait until it is on disk."""
    staged.touch(mode=0o600)
    with staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fchown(file.fileno(), *owner)
        if modified_ns is not None:
            os.utime(file.fileno(), ns=(modified_ns, modified_ns))
        os.fsync(file.fileno())
