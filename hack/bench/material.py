"""Material: closures to fetch, published in a binary cache and kept for the next run.

    /var/tmp/cri-proxy-bench/pool                bytes of this machine's own programs and libraries
    /var/tmp/cri-proxy-bench/<shape>-<format>/   a binary cache, and material.json: what is in it

Files are cut from the pool, so they compress as real ones do. Sizes are spread as they are in real
closures, few large and many small, but the same in every run. Paths refer to each other in layers:
a program to libraries, these to others. The last root exists in two generations, for measuring
what a small change costs.

Publishing a gigabyte takes minutes of computing, most of it for xz: that is why it is kept.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy.lib import nixbase32
from cri_proxy.model import storepaths
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import signatures
from hack.bench.figures import Options
from hack.testbed.binary_cache import Publisher

HOME: Final = Path("/var/tmp/cri-proxy-bench")
_SOURCES: Final = ("/usr/bin", "/usr/lib")
_POOL_BYTES: Final = 256 * 1024 * 1024
_LAYERS: Final = 8
_REFERENCES: Final = 3
_SPREAD: Final = 1.2
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a closure is like; `is_even` gives all paths and files the same size."""

    paths: int
    files: int
    bytes: int
    is_even: bool = False

    @property
    def name(self) -> str:
        """A word for it that says all of it."""
        return f"{self.paths}-{self.files}-{self.bytes}{'-even' if self.is_even else ''}"


@dataclass(frozen=True, slots=True)
class Material:
    """A published closure: the paths that nobody refers to are its `roots`.

    `changed` are the roots of the next generation, which differs in one path.
    """

    directory: Path
    public_key: str
    roots: tuple[StorePath, ...]
    changed: tuple[StorePath, ...]
    closure: tuple[StorePath, ...]

    @property
    def url(self) -> str:
        """The cache without a server."""
        return f"file://{self.directory}"

    def warm(self) -> None:
        """Have all of it in memory, so that no run pays for the disk."""
        for file in self.directory.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    while opened.read(1024 * 1024):
                        pass


@dataclass(frozen=True, slots=True)
class _Planned:
    """One path to be published; processes are told this much."""

    path: str
    references: tuple[str, ...]
    sizes: tuple[int, ...]


def published(options: Options, shape: Shape, compression: str) -> Material:
    """Return the closure of a shape, published now if no earlier run has."""
    directory = HOME / f"{shape.name}-{compression}"
    if not (directory / "material.json").exists():
        options.tell(f"publishing {shape.bytes // 1_000_000} MB as {compression}, for this run "
                     "and later ones")  # fmt: skip
        _publish(shape, compression, directory)
    made = _load(directory)
    made.warm()
    return made


def files_of(sizes: Sequence[int], seed: str) -> Iterator[tuple[str, bytes]]:
    """Return names and contents of the files of one path."""
    pool, cut = _pool(), random.Random(seed)
    for number, size in enumerate(sizes):
        start = cut.randrange(max(1, len(pool) - size))
        yield f"lib/part-{number // 50}/file-{number}", pool[start : start + size]


def _publish(shape: Shape, compression: str, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _make_pool()
    publisher = Publisher(directory, compression=compression)
    plans, roots = _planned(shape)
    changed = _Planned(_path_of(f"{shape.name}-changed", "changed"), *_rest_of(plans[-1]))
    tasks = [(directory, compression, publisher.key.text, each) for each in (*plans, changed)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as executor:
        for _ in executor.map(_publish_one, tasks):
            pass
    data = {
        "public_key": publisher.public_key,
        "roots": roots,
        "changed": [*roots[:-1], changed.path],
        "closure": [each.path for each in plans],
    }
    (directory / "material.json").write_text(json.dumps(data))


def _publish_one(task: tuple[Path, str, str, _Planned]) -> None:
    """Publish one path; in a process of its own."""
    directory, compression, key, plan = task
    publisher = Publisher(directory, compression=compression, key=signatures.parse_secret(key))
    with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
        tree = Path(scratch, "tree")
        for name, content in files_of(plan.sizes, plan.path):
            file = tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        references = [storepaths.parse(each) for each in plan.references]
        publisher.publish(storepaths.parse(plan.path), tree, references)


def _planned(shape: Shape) -> tuple[list[_Planned], list[str]]:
    """Return all paths, those that are referred to first, and the roots among them."""
    rolled = random.Random(shape.name)
    paths = [_path_of(f"{shape.name}-{number}", f"package-{number}") for number in
             range(shape.paths)]  # fmt: skip
    totals = _spread(rolled, shape.bytes, shape.paths, shape.is_even)
    counts = _spread(rolled, shape.files, shape.paths, True)
    plans: list[_Planned] = []
    referred: set[str] = set()
    for number, path in enumerate(paths):
        layer = number * _LAYERS // shape.paths
        below = paths[: layer * shape.paths // _LAYERS]
        references = tuple(rolled.sample(below, min(_REFERENCES, len(below))))
        referred.update(references)
        sizes = _spread(rolled, totals[number], counts[number], shape.is_even)
        plans.append(_Planned(path, references, tuple(sizes)))
    return plans, [path for path in paths if path not in referred]


def _rest_of(plan: _Planned) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return plan.references, plan.sizes


def _spread(rolled: random.Random, total: int, parts: int, is_even: bool) -> list[int]:
    """Return `parts` numbers, at least 1, that add up to about `total`."""
    weights = [1.0 if is_even else rolled.lognormvariate(0, _SPREAD) for _ in range(parts)]
    return [max(1, round(total * weight / sum(weights))) for weight in weights]


def _path_of(seed: str, name: str) -> str:
    digest = nixbase32.encode(hashlib.sha256(seed.encode()).digest()[:20])
    return str(StorePath(digest, name))


def _load(directory: Path) -> Material:
    data = json.loads((directory / "material.json").read_text())
    roots, changed, closure = (
        tuple(storepaths.parse(each) for each in data[key])
        for key in ("roots", "changed", "closure")
    )
    return Material(directory, data["public_key"], roots, changed, closure)


def _make_pool() -> None:
    """Gather the pool, once."""
    file = HOME / "pool"
    if file.exists() and file.stat().st_size >= _POOL_BYTES // 2:
        return
    HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = (each for root in _SOURCES for each in sorted(Path(root).rglob("*")))
    regular = (each for each in found if each.is_file() and not each.is_symlink())
    with file.with_suffix(".part").open("wb") as pool:
        for each in itertools.islice(regular, 0, None, 3):
            pool.write(each.read_bytes()[: 2 * 1024 * 1024])
            if pool.tell() >= _POOL_BYTES:
                break
    file.with_suffix(".part").rename(file)


def _pool() -> mmap.mmap:
    with (HOME / "pool").open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
