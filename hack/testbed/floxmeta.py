"""The git repositories of a local FloxHub, written as Flox writes them.

There is one bare repository per owner (`<root>/<owner>/floxmeta`), and one branch per environment,
with metadata.json and `<generation>/env/manifest.{toml,lock}`. Each push is a commit on top of the
last, so that shallow fetches differ from full ones. The module uses dulwich, not the git program.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

_AUTHOR = b"testbed <testbed@localhost>"
_MANIFEST = b"version = 1\n"


class Floxmeta:
    """All owners' repositories below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._repositories: dict[str, Repo] = {}
        self._lock = threading.RLock()

    def push(
        self,
        owner: str,
        name: str,
        lockfile: Mapping[str, Any] | bytes | None,
        *,
        metadata_version: int = 2,
    ) -> int:
        """Append a generation, make it live, and return its number.

        `lockfile` may be bytes, which are stored as they are, or None for a generation without one.
        """
        with self._lock:
            files = self.files(owner, name)
            generation = 1 + sum(path.endswith("manifest.toml") for path in files)
            files[f"{generation}/env/manifest.toml"] = _MANIFEST
            if lockfile is not None:
                content = lockfile if isinstance(lockfile, bytes) else json.dumps(lockfile).encode()
                files[f"{generation}/env/manifest.lock"] = content
            self._commit_live(owner, name, files, generation, metadata_version)
            return generation

    def set_live(
        self, owner: str, name: str, generation: int, *, metadata_version: int = 2
    ) -> None:
        """Make an earlier generation the live one."""
        with self._lock:
            files = self.files(owner, name)
            self._commit_live(owner, name, files, generation, metadata_version)

    def write(self, owner: str, name: str, files: Mapping[str, bytes]) -> str:
        """Commit exactly these files to the branch, and return the commit."""
        with self._lock:
            repository = self._opened(owner)
            entries = []
            for path, content in files.items():
                blob = Blob.from_string(content)
                repository.object_store.add_object(blob)
                entries.append((path.encode(), blob.id, 0o100644))
            branch = _branch(name)
            commit = Commit()
            commit.tree = commit_tree(repository.object_store, entries)
            commit.parents = [repository.refs[branch]] if branch in repository.refs else []
            commit.author = commit.committer = _AUTHOR
            commit.author_time = commit.commit_time = int(time.time())
            commit.author_timezone = commit.commit_timezone = 0
            commit.message = b"push\n"
            repository.object_store.add_object(commit)
            repository.refs[branch] = commit.id
            return commit.id.decode("ascii")

    def head(self, owner: str, name: str) -> str:
        """Return the commit of an environment's branch."""
        return self._opened(owner).refs[_branch(name)].decode("ascii")

    def files(self, owner: str, name: str) -> dict[str, bytes]:
        """Return the files of an environment's branch; none if the branch does not exist."""
        with self._lock:
            repository = self._opened(owner)
            if _branch(name) not in repository.refs:
                return {}
            commit = repository[repository.refs[_branch(name)]]
            assert isinstance(commit, Commit)
            return dict(_walk(repository, commit.tree, ""))

    def delete(self, owner: str, name: str) -> None:
        """Remove an environment's branch."""
        with self._lock:
            self._opened(owner).refs.remove_if_equals(_branch(name), None)

    def find(self, owner: str) -> Repo | None:
        """Return an owner's repository, or None if there was no push to it."""
        with self._lock:
            return self._repositories.get(owner)

    def close(self) -> None:
        """Close every repository."""
        with self._lock:
            for each in self._repositories.values():
                each.close()
            self._repositories.clear()

    def _commit_live(
        self, owner: str, name: str, files: dict[str, bytes], live: int, version: int
    ) -> None:
        total = sum(path.endswith("manifest.toml") for path in files)
        metadata = json.loads(files.get("metadata.json", b"{}"))
        made = _version_1(total, live) if version == 1 else _version_2(metadata, total, live)
        files["metadata.json"] = json.dumps(made).encode()
        self.write(owner, name, files)

    def _opened(self, owner: str) -> Repo:
        with self._lock:
            if owner not in self._repositories:
                directory = self._root / owner / "floxmeta"
                if directory.exists():
                    self._repositories[owner] = Repo(str(directory))
                else:
                    directory.mkdir(parents=True)
                    self._repositories[owner] = Repo.init_bare(str(directory))
            return self._repositories[owner]


def _version_1(total: int, live: int) -> dict[str, Any]:
    stamp = "2024-05-01T12:00:00Z"
    known = {
        str(each): {"created": stamp, "lastActive": stamp, "description": f"generation {each}"}
        for each in range(1, total + 1)
    }
    return {"version": 1, "currentGen": str(live), "generations": known}


def _version_2(metadata: Mapping[str, Any], total: int, live: int) -> dict[str, Any]:
    history = list(metadata.get("history", []))
    entry: dict[str, Any] = {
        "kind": "edit" if history else "initialize",
        "author": "testbed",
        "hostname": "localhost",
        "timestamp": int(time.time()),
        "current_generation": str(live),
    }
    if history:
        entry["previous_generation"] = history[-1]["current_generation"]
    return {"version": 2, "history": [*history, entry], "total_generations": total}


def _walk(repository: Repo, tree_id: ObjectID, prefix: str) -> list[tuple[str, bytes]]:
    tree = repository[tree_id]
    assert isinstance(tree, Tree)
    found = []
    for name, _mode, entry_id in tree.iteritems():
        path = prefix + name.decode()
        entry = repository[entry_id]
        if isinstance(entry, Tree):
            found += _walk(repository, entry_id, f"{path}/")
        else:
            found.append((path, entry.as_raw_string()))
    return found


def _branch(name: str) -> Ref:
    return Ref(f"refs/heads/{name}".encode())
