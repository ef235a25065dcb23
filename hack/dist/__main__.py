"""`python -m hack.dist`: build the release, or update its pinned inputs.

dist/cri-proxy-VERSION-linux-ARCH.tar.gz        the program, for each requested architecture
dist/cri-proxy-VERSION-linux-ARCH.cdx.json      its SBOM
dist/cri_proxy-VERSION-py3-none-any.whl         for use with an installed Python
dist/SHA256SUMS
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import cri_proxy
from hack.dist import architectures, archive, inputs, parts, tree
from hack.dist.architectures import Architecture


def main() -> None:
    """Run the command."""
    options = _options()
    if options.renew:
        inputs.renew()
        return
    epoch = _epoch()
    options.out.mkdir(parents=True, exist_ok=True)
    for left in options.out.glob("cri[-_]proxy-*"):
        left.unlink()
    with tempfile.TemporaryDirectory(prefix="dist-") as directory:
        wheel = tree.build_wheel(options.out, epoch)
        for name in options.arch or [architectures.host().name]:
            _build(architectures.ALL[name], wheel, Path(directory), options.out, epoch=epoch)
    files = sorted(options.out.glob("cri[-_]proxy-*"))
    lines = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in files]
    (options.out / "SHA256SUMS").write_text("".join(lines))
    for each in files:
        print(f"{each.stat().st_size / 1e6:7.1f} MB  {each}")


def _build(target: Architecture, wheel: Path, work: Path, out: Path, *, epoch: int) -> None:
    """Build the tarball and the SBOM for one architecture."""
    version = cri_proxy.__version__
    python = _python(work)
    launcher = work / f"launcher-{target.name}"
    tree.compile_launcher(launcher, target, architectures.host())
    built = tree.Tree(work / target.name / f"cri-proxy-{version}", target)
    built.add_interpreter(launcher)
    built.add_packages(wheel)
    built.finish(python)
    stem = f"cri-proxy-{version}-linux-{target.name}"
    listing = parts.listing(version, target, epoch=epoch)
    (built.directory / "parts.cdx.json").write_text(listing)
    (out / f"{stem}.cdx.json").write_text(listing)
    archive.pack(built.directory, out / f"{stem}.tar.gz", epoch=epoch)
    shutil.rmtree(built.directory)


def _python(work: Path) -> Path:
    """Return the interpreter of the tarball for this machine's architecture."""
    place = work / "python"
    if not place.exists():
        host = architectures.host()
        launcher = work / "launcher"
        tree.compile_launcher(launcher, host, host)
        tree.Tree(place, host).add_interpreter(launcher)
    return place / "bin/python3"


def _epoch() -> int:
    """Return the timestamp for all files: SOURCE_DATE_EPOCH, or that of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    argv = ["git", "-C", str(inputs.REPOSITORY), "log", "-1", "--format=%ct"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 315532800


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hack.dist", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--arch", action="append", choices=sorted(architectures.ALL), help="default: this machine's"
    )
    parser.add_argument("--out", type=Path, default=inputs.REPOSITORY / "dist")
    parser.add_argument(
        "--renew", action="store_true", help="update inputs.json to the current versions, without a build"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
