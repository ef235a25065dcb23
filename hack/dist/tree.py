"""The unpacked tarball: an interpreter with all of its libraries, and the project.

    cri-proxy-VERSION/
        bin/cri-proxy               the launcher
        bin/python3                 the same, as a Python interpreter
        libexec/cri-proxy           the dynamic loader, under the name that ps shows
        libexec/python              the interpreter itself
        lib/*.so*                   C library and others, from Debian
        lib/python3.13/             standard library, from Debian
        lib/python3/dist-packages/  the project and what it depends on, from wheels
        LICENSE                     the project's licence
        licenses/<package>          of a Debian package: its copyright file
        licenses/<wheel>/           of a wheel: its licence files
        licenses/common/            the licence texts that Debian's copyright files refer to

Every module has its bytecode beside it, marked as not to be checked against the source, so that the
tree contains no timestamps and can be on a read-only file system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from hack.dist import inputs
from hack.dist.architectures import Architecture

_PACKAGES: Final = Path("lib/python3/dist-packages")
_DROPPED: Final = (
    # standard library: modules that we do not use, or that need libraries that we do not include
    "lib/python*/ensurepip",
    "lib/python*/idlelib",
    "lib/python*/pydoc_data",
    "lib/python*/sqlite3",
    "lib/python*/curses",
    "lib/python*/dbm",
    "lib/python*/turtle*",
    "lib/python*/sitecustomize.py",
    "lib/python*/lib-dynload/_sqlite3.*",
    "lib/python*/lib-dynload/_curses*",
    "lib/python*/lib-dynload/_dbm.*",
    "lib/python*/lib-dynload/readline.*",
    "lib/python*/_pyrepl/_minimal_curses.py",  # would load the node's library
    # Python's own tests
    "lib/python*/lib-dynload/_*test*",
    "lib/python*/lib-dynload/xx*",
    # C library: character sets, and files for linkers and debuggers
    "lib/gconv",
    "lib/audit",
)
_LICENSE: Final = re.compile(  # the second is where wheels had them before metadata 2.4
    r"\.dist-info/(licenses/.*[^/]|[^/]*(licen[cs]e|copying|notice|authors)[^/]*)$", re.IGNORECASE
)
_COMPILE: Final = """
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
sys.exit(not compileall.compile_dir(
    sys.argv[1] + "/lib", quiet=1, stripdir=sys.argv[1], invalidation_mode=mode))
"""


class Tree:
    """The tree in `directory`, filled step by step."""

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        """Create the empty directory."""
        self.directory: Final = directory
        self._architecture: Final = architecture
        directory.mkdir(parents=True)

    def add_interpreter(self, launcher: Path) -> None:
        """Add launcher, interpreter, standard library and C library."""
        for name in ("cri-proxy", "python3"):
            self._place(launcher, f"bin/{name}", mode=0o755)
        fetcher = inputs.Fetcher(self._architecture)
        packages = inputs.load(self._architecture).debian
        for package in packages:
            self._unpack(fetcher.debian(package), package.name)
        for package in packages:  # now, as it may be a link to another package's
            if not (self.directory / "licenses" / package.name).is_file():
                raise SystemExit(f"{package.name} has no copyright file: add the package that has")
        (self.directory / "lib" / self._architecture.loader).rename(
            self.directory / "libexec/cri-proxy"
        )

    def add_packages(self, ours: Path) -> None:
        """Add the project's wheel and its dependencies."""
        fetcher = inputs.Fetcher(self._architecture)
        for wheel in inputs.load(self._architecture).wheels:
            file = fetcher.wheel(wheel)
            self._unzip(file)
            self._copy_licenses(file, wheel.project)
        self._unzip(ours)
        self._place(inputs.REPOSITORY / "LICENSE", "LICENSE", mode=0o644)

    def finish(self, python: Path) -> None:
        """Delete unused files, and compile all modules with the interpreter `python`."""
        for pattern in _DROPPED:
            for path in self.directory.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        subprocess.run([python, "-c", _COMPILE, self.directory], check=True)

    def _unpack(self, package: Path, name: str) -> None:
        """Extract the files of a .deb that belong in the tree."""
        argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
        with (
            subprocess.Popen(argv, stdout=subprocess.PIPE) as dpkg,
            tarfile.open(fileobj=cast("IO[bytes]", dpkg.stdout), mode="r|") as archive,
        ):
            for member in archive:
                place = self._place_of(PurePosixPath(member.name.removeprefix(".")), name)
                if place is not None and (member.isfile() or member.issym()):
                    self._put(archive, member, place)
        if dpkg.returncode:
            raise SystemExit(f"{package} could not be unpacked")

    def _put(self, archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> None:
        path = self.directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            path.symlink_to(PurePosixPath(member.linkname).name)  # all point to a file in the same directory
            return
        source = archive.extractfile(member)
        assert source is not None
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)

    def _place_of(self, path: PurePosixPath, package: str) -> str | None:
        """Return the place in the tree for a file of a Debian package; None to leave it out."""
        text, multiarch = str(path), self._architecture.multiarch
        if text == f"/usr/bin/python{inputs.PYTHON}":
            return "libexec/python"
        if text in (f"/usr/share/doc/{package}/copyright", f"/usr/share/doc/{package}"):
            return f"licenses/{package}"  # the latter is a link to another package's directory
        if text.startswith("/usr/share/common-licenses/"):
            return f"licenses/common/{path.name}"
        if text.startswith(f"/usr/lib/python{inputs.PYTHON}/"):
            return text.removeprefix("/usr/")
        if "/gconv/" in text or "/audit/" in text or "/engines" in text or "/ossl-" in text:
            return None
        for start in (f"/lib/{multiarch}/", f"/usr/lib/{multiarch}/"):
            if text.startswith(start) and ".so" in path.name:
                return f"lib/{path.name}"
        return None

    def _unzip(self, wheel: Path) -> None:
        """Unpack a wheel without its programs and headers."""
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.namelist()):
                parts = PurePosixPath(member).parts
                if member.endswith("/") or ".." in parts:
                    continue
                if parts[0].endswith(".data"):
                    if parts[1] not in ("purelib", "platlib"):
                        continue
                    parts = parts[2:]
                path = self.directory.joinpath(_PACKAGES, *parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
                path.chmod(0o755 if ".so" in path.name else 0o644)

    def _copy_licenses(self, wheel: Path, project: str) -> None:
        """Copy the licence files of a wheel to where those of all parts are."""
        with zipfile.ZipFile(wheel) as archive:
            files = [each for each in archive.namelist() if _LICENSE.search(each)]
            if not files:
                raise SystemExit(
                    f"{wheel.name} has no licence file: find out what it may be used for"
                )
            for each in files:
                inside = each.partition(".dist-info/")[2].removeprefix("licenses/")
                path = self.directory / "licenses" / project / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(each))

    def _place(self, source: Path, place: str, *, mode: int) -> None:
        path = self.directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(mode)


def compile_launcher(place: Path, target: Architecture, host: Architecture) -> None:
    """Compile launcher.c for `target`, on a machine that is `host`."""
    wheel = inputs.Fetcher(host).wheel(inputs.compiler(host))
    directory = wheel.parent / "unpacked"
    if not directory.exists():
        staged = Path(tempfile.mkdtemp(dir=wheel.parent))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(staged)
        (staged / "ziglang/zig").chmod(0o755)
        staged.rename(directory)
    source = Path(__file__).with_name("launcher.c")
    flags = ["-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"]
    flags += ["-fno-sanitize=undefined", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    with tempfile.TemporaryDirectory() as cache:
        argv = [str(directory / "ziglang/zig"), "cc", "-target", target.compiler]
        argv += [*flags, "-o", str(place), source.name]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        subprocess.run(argv, cwd=source.parent, env=environment, check=True)


def build_wheel(directory: Path, epoch: int) -> Path:
    """Build the project's wheel into `directory`, from a copy that has only its sources."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "source"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(inputs.REPOSITORY / name, copy / name)
        shutil.copytree(
            inputs.REPOSITORY / "cri_proxy",
            copy / "cri_proxy",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for path in copy.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
        argv += ["--no-deps", "--no-build-isolation", f"--wheel-dir={directory}", str(copy)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
        subprocess.run(argv, env=environment, check=True)
    return next(directory.glob("cri_proxy-*.whl"))
