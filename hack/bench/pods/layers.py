"""A closure as the layers of a container image.

The paths of the closure go into a few layers, tar archives compressed with gzip, as image builders
write them. They are made once and kept beside the cache. A *salted* layer begins with an additional
small file, and so is a different layer, which a runtime that knows the first must pull and unpack
again. gzip files can be concatenated, and tar archives nearly so, which saves compressing
everything again.

    /var/tmp/cri-proxy-bench/<shape>-layers/<n>.tar.gz
                                            changed.tar.gz    the last one after the change
"""

from __future__ import annotations

import gzip
import hashlib
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cri_proxy.model.storepaths import StorePath
from hack.bench import material
from hack.bench.figures import Options
from hack.bench.material import Material
from hack.testbed import images
from hack.testbed.registry import Layer

COUNT: Final = 6
_MEMORY: Final = Path("/dev/shm")
_ENTRY_BYTES: Final = 2 * 512  # header and content of a small file, without the archive's end


def made(options: Options, of: Material, extra: Sequence[tuple[StorePath, Path]]) -> list[Path]:
    """Return the files of the layers, then that of the last one after the change.

    `extra` are paths that are in no cache, with their trees; they go into the first layer.
    """
    directory = of.directory.with_name(f"{of.directory.name}-layers")
    files = [directory / f"{number}.tar.gz" for number in range(COUNT)]
    files.append(directory / "changed.tar.gz")
    if not files[-1].exists():
        options.log(f"compressing {COUNT} layers, for this run and later ones")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
            _compress(of, extra, files, Path(scratch))
    return files


def salted(file: Path, salt: str, target: Path) -> Layer:
    """Write a layer that no runtime knows yet; return it."""
    front = images.layer({f"salt-{salt}": images.File(salt.encode())})[:_ENTRY_BYTES]
    plain = hashlib.sha256(front)
    with target.open("wb") as joined, file.open("rb") as rest:
        joined.write(gzip.compress(front, mtime=0))
        shutil.copyfileobj(rest, joined, 1024 * 1024)
    with gzip.open(file) as contents:
        while piece := contents.read(1024 * 1024):
            plain.update(piece)
    with target.open("rb") as joined:
        digest = hashlib.file_digest(joined, "sha256").hexdigest()
    return Layer(target, f"sha256:{digest}", f"sha256:{plain.hexdigest()}")


def _compress(
    of: Material, extra: Sequence[tuple[StorePath, Path]], files: Sequence[Path], scratch: Path
) -> None:
    """Write the files of the layers; the files of a path are in the same layer."""
    store = scratch / "nix" / "store"
    store.mkdir(parents=True)
    for path, tree in extra:
        shutil.copytree(tree, store / path.basename, symlinks=True)
    (changed,) = set(of.changed) - set(of.roots)
    last = of.closure[-1]
    for path in (*of.closure, changed):
        material.fetched(of, path, store / path.basename)
    size = len(of.closure) // COUNT + 1
    parts = [[each.basename for each in of.closure[n * size : (n + 1) * size]]
             for n in range(COUNT)]  # fmt: skip
    parts[0] += [path.basename for path, _ in extra]
    parts.append([name for name in parts[-1] if name != last.basename] + [changed.basename])
    with ThreadPoolExecutor(2) as executor:
        for _ in executor.map(lambda pair: _tar(scratch, *pair), zip(parts, files)):
            pass


def _tar(root: Path, names: Sequence[str], target: Path) -> None:
    argv = ["tar", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C", str(root)]
    listed = shlex.join([*argv, "-cf", "-", *(f"nix/store/{name}" for name in names)])
    command = f"{listed} | gzip -6n >{shlex.quote(str(target.with_suffix('.part')))}"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    target.with_suffix(".part").rename(target)
