"""The sides of the store benchmark: our program, Nix with several settings, the lower bound."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from hack.bench.material import Material
from hack.testbed.nix import Nix

_REPOSITORY: Final = Path(__file__).parents[3]
_TUNED: Final = {
    "http-connections": "100",
    "fsync-metadata": "false",
    "auto-optimise-store": "false",
}

# A release's interpreter only imports from its own directories, which have cri_proxy but not us.
_PROGRAM: Final = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1));"
    " runpy.run_module('hack.bench.store.program', run_name='__main__', alter_sys=True)"
)

# The daemon's workers give way to pods; on a machine where others compute, Nix must as well.
_NICE: Final = ("nice", "-n", "10")


class Ours:
    """A running `program`."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests = requests
        self._answers = answers
        self.peaks: list[float] = []
        self.computed: list[float] = []

    def ask(self, what: str, argument: object) -> float:
        """Execute a command of the program; return the seconds that it took."""
        self._requests.write(json.dumps({what: argument}) + "\n")
        self._requests.flush()
        answer: dict[str, Any] = json.loads(self._answers.readline())
        self.peaks, self.computed = answer["peaks"], answer["computed"]
        return float(answer["seconds"])

    def fetch(self, roots: Iterable[StorePath]) -> float:
        """Fetch a closure."""
        return self.ask("fetch", [str(each) for each in roots])


@contextlib.contextmanager
def ours(
    root: Path,
    *,
    cache: str,
    key: str,
    floxhub: dict[str, object] | None = None,
    python: str = sys.executable,
) -> Iterator[Ours]:
    """Run our program with its state below `root`; yield it once it is ready."""
    settings = {
        "store": {"root": str(root), "caches": [cache], "public_keys": [key]},
        "floxhub": floxhub or {},
    }
    program = subprocess.Popen(
        [python, "-c", _PROGRAM, str(_REPOSITORY), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        if program.stdout.readline() != "ready\n":
            raise RuntimeError("our program did not become ready: see its output")
        yield Ours(program.stdin, program.stdout)
    finally:
        program.stdin.close()
        if program.wait(timeout=30) != 0:
            raise RuntimeError(f"our program ended with {program.returncode}")
        program.stdout.close()


def nix_realise(
    root: Path,
    roots: Iterable[StorePath],
    *,
    cache: str,
    key: str,
    jobs: int,
    is_tuned: bool = False,
) -> float:
    """Return the seconds that `nix-store --realise` takes in a new store below `root`.

    `is_tuned` uses the fastest settings instead of Nix's defaults.
    """
    settings = {"substituters": cache, "max-jobs": str(jobs)} | (_TUNED if is_tuned else {})
    argv = ("nix-store", "--realise", *map(str, roots))
    return _timed(Nix(root), *argv, settings=settings, key=key)


def nix_copy(root: Path, roots: Iterable[StorePath], *, cache: str, key: str) -> float:
    """Return the seconds that `nix copy` takes to a new store below `root`."""
    store = f"local?root={root / 'chroot'}"
    argv = ("nix", "copy", "--from", cache, "--to", store, *map(str, roots))
    return _timed(Nix(root), *argv, settings=_TUNED, key=key)


def bare(root: Path, made: Material, *, files: int, python: str) -> float:
    """Return the seconds that `bare` takes for a closure in zstd, on all cores."""
    shares: list[list[tuple[str, int]]] = [[] for _ in os.sched_getaffinity(0)]
    sizes = [0] * len(shares)
    for size, archive in sorted(_archives_of(made), reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append((archive, size))
        sizes[least] += size
    request = {"shares": shares, "target": str(root), "files": files // len(made.closure)}
    argv = (*_NICE, python, str(Path(__file__).with_name("bare.py")), json.dumps(request))
    done = subprocess.run(argv, input="\n", capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def _archives_of(made: Material) -> Iterator[tuple[int, str]]:
    """Yield the unpacked size and the file of every archive of a closure."""
    for path in made.closure:
        text = (made.directory / f"{path.digest}.narinfo").read_bytes()
        found = narinfo.parse(text, path)
        yield found.nar_size, str(made.directory / found.url)


def _timed(nix: Nix, *argv: str, settings: dict[str, str], key: str) -> float:
    nix.run("nix-store", "--init")
    trusting = {"require-sigs": "true", "trusted-public-keys": key}
    begun = time.perf_counter()
    nix.run(*_NICE, *argv, settings={**settings, **trusting})
    return time.perf_counter() - begun
