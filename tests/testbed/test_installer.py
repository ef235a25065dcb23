"""The installer's image, and its script's effects on a node, which is a directory here."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
from pathlib import Path

import pytest

from hack import installer
from hack.testbed import images

PROGRAM = b'#!/bin/sh\necho "$0 $*" >>"$CALLS"\n'


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """A distribution whose program records its arguments."""
    file = tmp_path / f"cri-proxy-1.2.3-linux-{platform.machine()}.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name, content, mode in (
            ("cri-proxy-1.2.3/bin/cri-proxy", PROGRAM, 0o755),
            ("cri-proxy-1.2.3/README", b"read me\n", 0o644),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, os.getpid()
            tar.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The script's container: the node's directories and the settings."""
    for name in ("host/opt", "host/etc", "settings", "image/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "settings/config.toml").write_text("[log]\n")
    (tmp_path / "settings/prewarm.txt").write_text("acme/web\n")
    program = tmp_path / "image/bin/cri-proxy"
    program.write_bytes(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def run(node: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script up to the point where it waits forever."""
    script = installer.SCRIPT.read_text().partition("# Keep running until")[0]
    return subprocess.run(
        ["sh", "-s", "--", *arguments],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "IMAGE_ROOT": str(node / "image"),
            "HOST_ROOT": str(node / "host"),
            "SETTINGS": str(node / "settings"),
            "DONE": str(node / "done"),
            "CALLS": str(node / "calls"),
            "ON_NODE": f"sh {node / 'chroot'}",
        },
    )


@pytest.fixture(autouse=True)
def chroot(tmp_path: Path) -> None:
    """Replace the way into the node: the program is found below the node's directory."""
    (tmp_path / "chroot").write_text(
        f'if [ "$1" = systemctl ]; then echo "$*" >>"{tmp_path}/systemctl"; exit; fi\n'
        f'program={tmp_path}/host$1; shift; exec "$program" "$@"\n'
    )


def test_image_is_reproducible(distribution: Path, tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        images.write(installer.image_of(distribution), tmp_path / name)

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_image_has_the_program_where_the_script_expects_it(
    distribution: Path, tmp_path: Path
) -> None:
    image = installer.image_of(distribution)

    names = set()
    for layer in image.layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            names |= {member.name for member in tar.getmembers()}

    assert image.name == "ghcr.io/cri-proxy/installer:1.2.3"
    assert {"bin/sh", "cri-proxy/bin/cri-proxy", "install.sh"} <= names


def test_archive_is_an_image_layout(distribution: Path, tmp_path: Path) -> None:
    images.write(installer.image_of(distribution), tmp_path / "image.tar")

    with tarfile.open(tmp_path / "image.tar") as tar:
        index = json.load(tar.extractfile("index.json") or io.BytesIO())

    (manifest,) = index["manifests"]
    assert manifest["annotations"]["io.containerd.image.name"].endswith(":1.2.3")


def test_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(installer.Unsuitable, match="is for vax"):
        installer.image_of(tmp_path / "cri-proxy-1.2.3-linux-vax.tar.gz")


def test_install_writes_the_settings_and_runs_the_programs_installation(node: Path) -> None:
    done = run(node, "install")

    assert done.returncode == 0, done.stderr
    assert (node / "host/etc/cri-proxy/config.toml").read_text() == "[log]\n"
    assert (node / "host/etc/cri-proxy/prewarm.d/cluster").read_text() == "acme/web\n"
    assert calls(node) == ["install"]
    assert (node / "done").exists()


def test_install_leaves_no_files_of_its_own_and_does_not_touch_equal_settings(node: Path) -> None:
    run(node, "install")
    before = (node / "host/etc/cri-proxy/config.toml").stat().st_ino

    done = run(node, "install")

    assert done.returncode == 0, done.stderr
    assert (node / "host/etc/cri-proxy/config.toml").stat().st_ino == before
    assert list((node / "host/opt").iterdir()) == []


def test_changed_settings_restart_a_running_daemon_and_equal_ones_do_not(node: Path) -> None:
    asked = []
    for text in ("[log]\n", "[log]\n", "[log]\nlevel = 'debug'\n"):
        (node / "settings/config.toml").write_text(text)
        (node / "systemctl").write_text("")
        assert run(node, "install").returncode == 0
        asked.append((node / "systemctl").read_text().count("systemctl restart cri-proxy.service"))

    assert asked == [1, 0, 1]


def test_failed_install_can_be_repeated(node: Path) -> None:
    program = node / "image/bin/cri-proxy"
    program.write_text("#!/bin/sh\nexit 3\n")
    failed = run(node, "install")
    program.write_bytes(PROGRAM)

    done = run(node, "install")

    assert failed.returncode == 3
    assert done.returncode == 0, done.stderr


def test_uninstall_leaves_nothing(node: Path) -> None:
    run(node, "install")

    done = run(node, "uninstall")

    assert done.returncode == 0, done.stderr
    assert list((node / "host/opt").iterdir()) == []
    assert list((node / "host/etc").iterdir()) == []
    assert calls(node) == ["install", "uninstall"]


def calls(node: Path) -> list[str]:
    """Return the commands of the program, which must have run at its place on the node."""
    lines = (node / "calls").read_text().splitlines()
    place = f"{node}/host/opt/.cri-proxy-installer/bin/cri-proxy "
    assert all(line.startswith(place) for line in lines), lines
    return [line.removeprefix(place) for line in lines]
