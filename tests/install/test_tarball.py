"""The tarball on minimal nodes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cri_proxy
from hack.testbed import environments, images, machine
from hack.testbed.floxhub import FloxHub
from hack.testbed.proxy import toml_of
from hack.testbed.web import FileServer
from tests.install.conftest import REPOSITORY, missing

CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]


@pytest.fixture(params=["nothing", "bullseye"])
def root(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a root with /opt/tree, and without a C library or with one too old for wheels."""
    if os.geteuid() != 0:
        missing("a test root needs root's rights")
    directory = tmp_path / "root"
    directory.mkdir()
    mounts = []
    if request.param == "nothing":
        (directory / "tmp").mkdir()
    else:
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        options = f"lowerdir={machine.debian(request.param)},upperdir={tmp_path}/upper"
        options += f",workdir={tmp_path}/work"
        mounts.append(["-t", "overlay", "-o", options, "overlay", str(directory)])
    mounts.append(["-t", "proc", "proc", str(directory / "proc")])
    mounts.append(["--bind", "/dev", str(directory / "dev")])
    mounts.append(["--bind", str(tree), str(directory / "opt/tree")])
    done = []
    try:
        for each in mounts:
            Path(each[-1]).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", *each], check=True)
            done.append(each[-1])
        yield directory
    finally:
        for place in reversed(done):
            subprocess.run(["umount", "--lazy", place], check=True)


def run(root: Path, *words: str) -> str:
    """Run a program in that root; return its output."""
    done = subprocess.run(
        [CHROOT, root, "/opt/tree/bin/cri-proxy", *words],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/nowhere", "LD_LIBRARY_PATH": "/usr/lib", "PYTHONPATH": "/nowhere"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_without_python_git_or_a_c_library(root: Path) -> None:
    versions = json.loads(run(root, "version", "--json"))

    assert versions["cri-proxy"] == cri_proxy.__version__


def test_it_realizes_an_environment(root: Path, tmp_path: Path) -> None:
    if images.static_busybox() is None:
        missing("a statically linked busybox is missing")
    published = environments.published(tmp_path / "published")
    with (
        FloxHub(tmp_path / "hub", kind="dulwich") as hub,
        FileServer(tmp_path / "published") as cache,
    ):
        hub.push("acme", "web", environments.lockfile(published.tools, variables={"A": "b"}))
        settings = {
            "store": {"caches": [cache.url], "public_keys": [published.publisher.public_key]},
            "floxhub": {"url": hub.url, "git_url": hub.git_url},
        }
        (root / "config.toml").write_text(toml_of(settings))

        output = run(root, "realize", "acme/web", "--config", "/config.toml")

    assert "acme/web:1: /var/lib/cri-proxy/environments/" in output
    assert list((root / "var/lib/cri-proxy/store").glob("*-busybox-static/bin/busybox"))


def test_no_library_of_the_node_is_loaded(root: Path) -> None:
    """Except for character tables, which are data that the C library validates."""
    code = "print(open('/proc/self/maps').read())"
    argv = [CHROOT, root, "/opt/tree/bin/python3", "-c", f"import ssl, grpc, uvloop; {code}"]
    maps = subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    mapped = {line.split()[5] for line in maps.splitlines() if len(line.split()) > 5}
    libraries = {each for each in mapped if ".so" in each}
    assert any(each.endswith("libc.so.6") for each in libraries)
    assert {each for each in libraries if not each.startswith("/opt/tree/")} == set()


def test_all_needed_libraries_are_in_the_tree(root: Path, tree: Path) -> None:
    """A node that has such a library would hide that the tree lacks it."""
    names = [path.relative_to(tree) for path in tree.glob("lib/**/*.so*") if path.is_file()]
    loader = ["/opt/tree/libexec/cri-proxy", "--inhibit-cache", "--library-path", "/opt/tree/lib"]
    wrong = {}
    for name in [Path("libexec/python"), *names]:
        argv = [CHROOT, root, *loader, "--list", f"/opt/tree/{name}"]
        listed = subprocess.run(argv, capture_output=True, text=True, check=False)
        asked = [line for line in listed.stdout.splitlines() if "=>" in line]
        if listed.returncode or not all("=> /opt/tree/" in line for line in asked):
            wrong[str(name)] = f"{listed.stdout}{listed.stderr}"

    assert len(names) > 50
    assert wrong == {}


def test_the_same_sources_give_the_same_bytes(tarball: Path, tmp_path: Path) -> None:
    version = json.loads(
        (tarball.parent / tarball.name.replace(".tar.gz", ".cdx.json")).read_text()
    )
    argv = [sys.executable, "-m", "hack.dist", "--out", str(tmp_path)]
    subprocess.run(argv, cwd=REPOSITORY, check=True, capture_output=True)

    again = (tmp_path / tarball.name).read_bytes()
    assert version["bomFormat"] == "CycloneDX"
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(tarball.read_bytes()).hexdigest()


def test_checksums_cover_every_file(tarball: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tarball.parent, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_every_part_has_its_license_in_the_tarball(tree: Path) -> None:
    listing = json.loads((tree / "parts.cdx.json").read_text())
    names = [each["name"] for each in listing["components"]]
    lacking = [each for each in names if not (tree / "licenses" / each).exists()]
    texts = "".join(each.read_text() for each in tree.glob("licenses/*") if each.is_file())
    common = {each.rstrip(".") for each in re.findall(r"common-licenses/([\w.-]+)", texts)}

    assert len(names) > 40
    assert lacking == []
    assert {each for each in common if not (tree / "licenses/common" / each).exists()} == set()
    assert "Apache License" in (tree / "LICENSE").read_text()
    assert listing["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
