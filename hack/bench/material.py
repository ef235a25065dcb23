"""Closures to fetch, published in a binary cache and kept for later runs.

    /var/tmp/cri-proxy-bench/pool                bytes of this machine's own programs and libraries
    /var/tmp/cri-proxy-bench/<shape>-<format>/   a binary cache, and material.json: its contents

Files are cut from the pool, so they compress as real ones do. Sizes are distributed as in real
closures, few large and many small, and are the same in every run. Paths refer to each other in
layers: programs to libraries, those to other libraries. The last root exists in two generations, to
measure the cost of a small change.

The caches are kept because publishing a gigabyte takes minutes, mostly for xz.
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
from cri_proxy.store import compression, nar, narinfo, signatures
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
    """The size of a closure; with `is_even`, all paths and files have the same size."""

    paths: int
    files: int
    bytes: int
    is_even: bool = False

    @property
    def name(self) -> str:
        """A unique name for the shape, for use in file names."""
        return f"{self.paths}-{self.files}-{self.bytes}{'-even' if self.is_even else ''}"


@dataclass(frozen=True, slots=True)
class Material:
    """A published closure: `roots` are the paths that no other path refers to.

    `changed` are the roots of the next generation, which differs in one path.
    """

    directory: Path
    public_key: str
    roots: tuple[StorePath, ...]
    changed: tuple[StorePath, ...]
    closure: tuple[StorePath, ...]

    @property
    def url(self) -> str:
        """The `file://` URL of the cache."""
        return f"file://{self.directory}"

    def describe(self) -> str:
        """Return the size of the closure in words, for the name of a figure."""
        paths, files, size = self.directory.name.split("-")[:3]
        return f"{paths} paths, {files} files, {int(size) // 1_000_000} MB"

    def warm(self) -> None:
        """Read all files into the page cache, so that no run waits for the disk."""
        for file in self.directory.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    while opened.read(1024 * 1024):
                        pass


@dataclass(frozen=True, slots=True)
class _Planned:
    """One path to be published by a process of the pool."""

    path: str
    references: tuple[str, ...]
    sizes: tuple[int, ...]


def published(options: Options, shape: Shape, compressed: str) -> Material:
    """Return the closure of a shape; publish it unless an earlier run has done so."""
    directory = HOME / f"{shape.name}-{compressed}"
    if not (directory / "material.json").exists():
        options.log(f"publishing {shape.bytes // 1_000_000} MB as {compressed}, for this run "
                     "and later ones")  # fmt: skip
        _publish(shape, compressed, directory)
    made = _load(directory)
    made.warm()
    return made


def files_of(sizes: Sequence[int], seed: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files of one path; no other path has the same names."""
    pool, cut = _pool(), random.Random(seed)
    place = f"share/{seed.rpartition('/')[2]}"
    for number, size in enumerate(sizes):
        start = cut.randrange(max(1, len(pool) - size))
        yield f"{place}/part-{number // 50}/file-{number}", pool[start : start + size]


def fetched(made: Material, path: StorePath, target: Path) -> None:
    """Unpack a path of the cache to `target`."""
    found = narinfo.parse((made.directory / f"{path.digest}.narinfo").read_bytes(), path)
    with (made.directory / found.url).open("rb") as file:
        archive = compression.reader_of(file, found.compression, label=str(path))
        size, digest = found.nar_size, found.nar_hash
        nar.unpack(archive, target, nar_size=size, nar_hash=digest, label=str(path))


def _publish(shape: Shape, compressed: str, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    _make_pool()
    publisher = Publisher(directory, compression=compressed)
    plans, roots = _planned(shape)
    changed = _Planned(_path_of(f"{shape.name}-changed", "changed"), *_rest_of(plans[-1]))
    tasks = [(directory, compressed, publisher.key.text, each) for each in (*plans, changed)]
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
    """Publish one path; runs in a process of the pool."""
    directory, compressed, key, plan = task
    publisher = Publisher(directory, compression=compressed, key=signatures.parse_secret(key))
    with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
        tree = Path(scratch, "tree")
        for name, content in files_of(plan.sizes, plan.path):
            file = tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        references = [storepaths.parse(each) for each in plan.references]
        publisher.publish(storepaths.parse(plan.path), tree, references)


def _planned(shape: Shape) -> tuple[list[_Planned], list[str]]:
    """Return all paths, each after the paths it refers to, and the roots among them."""
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
    """Return `parts` numbers of at least 1 that add up to about `total`."""
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
    """Collect the pool, unless it exists."""
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
