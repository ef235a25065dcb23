"""nix-store, run in a closed environment, and its failures as errors of ours.

Only what all versions since Nix 2.8 have is used: nix-store, never the experimental `nix`. Options
set the caches and keys; from root, Nix and its daemon accept them. NIX_REMOTE (`store.nix_remote`)
says where the store is: empty for Nix's own choice, `daemon`, or `local?root=/dir` for a store
below another directory.

Several Nix processes break their common cache of narinfos (NixOS/nix#3898), so each process has a
cache of its own here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

from cri_proxy import errors
from cri_proxy.lib import locks
from cri_proxy.model import storepaths
from cri_proxy.store.protocol import StoreOptions

OLDEST: Final = (2, 8)
CACHES: Final = 8
POLL_SECONDS: Final = 0.2
_TAIL_LINES: Final = 12
_PLACES: Final = (
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/root/.nix-profile/bin",
)
_VERSION: Final = re.compile(r"\(Nix\)[^0-9]*(\d+)\.(\d+)")
_ARGUMENTS_AT_ONCE: Final = 500


class Programs:
    """nix-store, with our `home` for its caches; safe for threads and processes."""

    def __init__(self, home: Path, options: StoreOptions) -> None:
        self._home = home
        self._options = options
        self._found: str | None = None
        self._finding = threading.Lock()

    @property
    def root(self) -> Path:
        """The directory below which Nix's store and state are."""
        _, _, query = self._options.nix.remote.partition("?")
        return Path(dict(urllib.parse.parse_qsl(query)).get("root", "/"))

    @property
    def store(self) -> Path:
        """Where the store paths are on this node."""
        return self.root / storepaths.STORE.lstrip("/")

    @property
    def state(self) -> Path:
        """Where Nix keeps its database and the roots of its collector."""
        return self.root / "nix/var/nix"

    def find(self) -> str:
        """Return the program, which is new enough; raise RequestInvalid when there is none."""
        with self._finding:
            if self._found is None:
                self._found = _program_in(self._options.nix.directory or _search_path())
            return self._found

    def query(self, *arguments: str, paths: Sequence[str] = ()) -> str:
        """Return what nix-store prints for all of `paths`, some at a time."""
        parts = [
            self.run([*arguments, *paths[start : start + _ARGUMENTS_AT_ONCE]])
            for start in range(0, max(1, len(paths)), _ARGUMENTS_AT_ONCE)
        ]
        return "".join(parts)

    def run(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None] = lambda line: None,
        check: Callable[[], None] = lambda: None,
    ) -> str:
        """Run nix-store; return its output. `on_line` gets the lines of its standard error.

        `check` is called now and then; when it raises, the program is ended.
        """
        argv = [self.find(), *self._arguments(), *arguments]
        lines: list[str] = []

        def listen(stream: IO[str]) -> None:
            for line in stream:
                lines.append(line.rstrip())
                on_line(lines[-1])

        with (
            self._cache(check) as cache,
            subprocess.Popen(
                argv,
                env=self._environment(cache),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as program,
            ThreadPoolExecutor(2, thread_name_prefix="nix") as readers,
        ):
            assert program.stdout is not None
            assert program.stderr is not None
            printed = readers.submit(program.stdout.read)
            reading: set[Future[Any]] = {printed, readers.submit(listen, program.stderr)}
            try:
                while reading:
                    check()
                    reading = futures.wait(reading, POLL_SECONDS).not_done
                status = program.wait()
            finally:
                program.terminate()  # without effect on one that has ended
        if status != 0:
            raise refusal_of(lines, status)
        return printed.result()

    def _arguments(self) -> list[str]:
        given = self._options
        options: Mapping[str, str] = {
            "substituters": " ".join(given.caches),
            "trusted-public-keys": " ".join(given.keys),
            "require-sigs": "true",
            "builders": "",
            "fallback": "false",
            "keep-going": "false",
            "max-jobs": str(min(given.connections, 32)),  # of 2.8: how many are fetched at a time
            "http-connections": str(given.connections),
            "connect-timeout": "5",
            "stalled-download-timeout": str(max(1, int(given.timeout_seconds))),
            "narinfo-cache-negative-ttl": "0",  # a path may be pushed at any moment
        }
        return [word for name, value in options.items() for word in ("--option", name, value)]

    def _environment(self, cache: Path) -> dict[str, str]:
        environment = {
            "PATH": _search_path(),
            "HOME": str(cache),
            "XDG_CACHE_HOME": str(cache),
            "LC_ALL": "C.UTF-8",
        }
        if self._options.nix.remote:
            environment["NIX_REMOTE"] = self._options.nix.remote
        if self._options.ca_file:
            environment["NIX_SSL_CERT_FILE"] = str(self._options.ca_file)
        for name in ("NIX_CONF_DIR", "NIX_SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy"):
            if name in os.environ:
                environment.setdefault(name, os.environ[name])
        return environment

    @contextlib.contextmanager
    def _cache(self, check: Callable[[], None]) -> Iterator[Path]:
        """Hold one of the caches; wait for one while all are held."""
        self._home.mkdir(parents=True, exist_ok=True)
        while True:
            for number in range(CACHES):
                place = self._home / f"cache-{number}"
                lock = locks.file(self._home / f"cache-{number}.lock")
                if lock is None:
                    continue
                try:
                    place.mkdir(exist_ok=True)
                    yield place
                finally:
                    lock.release()
                return
            check()
            time.sleep(POLL_SECONDS)


def refusal_of(lines: Sequence[str], status: int) -> errors.CriProxyError:
    """Return the error for the last lines of a nix-store that failed."""
    text = "\n".join(lines)
    tail = "; ".join(line.strip() for line in lines[-_TAIL_LINES:] if line.strip())
    said = f"(nix-store ended with {status}: {tail[-1500:]})"
    if "No space left on device" in text or "disk is full" in text:
        return errors.NodeExhausted(f"Nix has no room on this node: free some {said}")
    if "cannot connect to daemon" in text or "cannot connect to socket" in text:
        return errors.SourceUnreachable(f"Nix's daemon does not answer: start nix-daemon {said}")
    if "lacks a valid signature" in text or "not signed by any of the keys" in text:
        return errors.SignatureUntrusted(
            f"no trusted key has signed a store path: trust the key that has, or sign it {said}"
        )
    if "hash mismatch" in text or "corrupt" in text or "bad archive" in text:
        return errors.ContentDamaged(
            f"a cache sent damaged data: publish the path there again {said}"
        )
    is_unreachable = "unable to download" in text
    if "don't know how to build" in text or "does not exist and cannot be created" in text:
        is_unreachable |= "Couldn't" in text or "disabling binary cache" in text
        if not is_unreachable:
            return errors.NotFound(
                f"no binary cache has it: push it to one, or add its cache {said}"
            )
    if is_unreachable:
        return errors.SourceUnreachable(
            f"caches do not answer: check that they are reachable {said}"
        )
    if "Permission denied" in text or "not privileged" in text or "not a trusted user" in text:
        return errors.RequestInvalid(f"Nix lets only root do this: run cri-proxy as root {said}")
    return errors.SourceUnreachable(f"Nix could not do it now: see its message {said}")


def _program_in(path: str) -> str:
    found = shutil.which("nix-store", path=path)
    if found is None:
        raise errors.RequestInvalid(
            f'store.kind is "nix" and there is no nix-store in {path}: install Nix on this '
            'node, name its directory in store.nix_directory, or set store.kind to "own"'
        )
    printed = subprocess.run(
        [found, "--version"], capture_output=True, text=True, errors="replace", check=False
    ).stdout
    match = _VERSION.search(printed)
    if match is None:
        raise errors.RequestInvalid(
            f"{found} does not say which Nix it is (it prints {printed[:100]!r}): check "
            "whether it runs on this node"
        )
    if (int(match[1]), int(match[2])) < OLDEST:
        raise errors.RequestInvalid(
            f"{found} is Nix {match[1]}.{match[2]}, and {OLDEST[0]}.{OLDEST[1]} is the oldest "
            'that can be used: install a newer Nix, or set store.kind to "own"'
        )
    return found


def _search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *_PLACES))
