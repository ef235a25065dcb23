"""Damage on the disk: found, withheld from new pods, repaired under running ones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from hack.testbed import waiting
from hack.testbed.pods import Container
from tests.e2e.conftest import Node

WHOLE = b"whole\n"


@pytest.fixture
def running(node: Node) -> Container:
    """A container in an environment with a page, and another page beside it."""
    page = node.published.package("page", {"share/page": WHOLE, "share/other": b"other\n"})
    node.push("web", page)
    return node.run("acme/web", "sleep", "600")


def flip(node: Node, name: str = "page") -> Path:
    """Flip a bit of a file in the store, as a disk does: nothing else changes."""
    (place,) = (node.proxy.root / "store").glob(f"*-page/share/{name}")
    data = bytearray(place.read_bytes())
    data[0] ^= 1
    times = place.stat()
    place.chmod(0o644)
    with place.open("r+b") as file:
        file.write(data)
    place.chmod(0o444)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    return place


def verify(node: Node, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `cri-proxy store verify`; return its exit code and what it says."""
    done = subprocess.run(
        node.proxy.argv("store", "verify", "--json", *options),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=waiting.DEADLINE_SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def shown(container: Container) -> bytes:
    return container.exec_sync(["sh", "-c", "cat $FLOX_ENV/share/page"], timeout_seconds=30).stdout


def test_an_undamaged_store_passes(node: Node, running: Container) -> None:
    code, said = verify(node)

    assert code == 0
    assert (said["paths"], said["environments"], said["damaged"]) == (2, 1, [])


def test_a_flipped_byte_is_found_and_repaired_under_a_running_container(
    node: Node, running: Container
) -> None:
    flip(node)
    assert shown(running) != WHOLE

    found, what = verify(node)
    repaired, how = verify(node, "--repair")
    again, nothing = verify(node)

    (damage,) = what["damaged"]
    assert found == 1
    assert damage["path"].endswith("-page")
    assert damage["environments"][0].endswith("acme-web")
    assert (repaired, how["damaged"][0]["repaired"]) == (0, True)
    assert (again, nothing["damaged"]) == (0, [])
    assert shown(running) == WHOLE
    assert node.output("acme/web", "sh", "-c", "cat $FLOX_ENV/share/page") == WHOLE.decode()


def test_what_is_in_quarantine_is_fetched_again_before_the_next_pod_starts(
    node: Node, running: Container
) -> None:
    flip(node)
    verify(node)

    output = node.output("acme/web", "sh", "-c", "cat $FLOX_ENV/share/page")

    assert output == WHOLE.decode()
    assert shown(running) == WHOLE
    assert verify(node)[0] == 0


def test_no_pod_starts_on_damage_that_cannot_be_repaired(node: Node, running: Container) -> None:
    flip(node)
    node.cache.stop()

    code, said = verify(node, "--repair")

    assert code == 1
    assert said["damaged"][0]["error"]
    with pytest.raises(grpc.RpcError):
        node.run("acme/web", "true")
    assert running.exec_sync(["true"], timeout_seconds=30).exit_code == 0


def test_a_file_missing_from_store_or_environment_is_restored(
    node: Node, running: Container
) -> None:
    (place,) = (node.proxy.root / "store").glob("*-page/share/other")
    place.unlink()
    (link,) = node.proxy.environments.glob("*/store/*-page/share/page")
    link.unlink()

    code, said = verify(node, "--repair")

    assert (code, len(said["damaged"])) == (0, 1)
    assert verify(node)[0] == 0
    assert shown(running) == WHOLE


def test_the_audit_finds_damage_by_itself(node: Node, running: Container) -> None:
    flip(node)
    node.proxy.configure({"audit": {"interval_seconds": 1, "megabytes_per_second": 1000}})

    node.proxy.restart()

    waiting.until(
        lambda: "store path damaged, quarantined path=" in node.proxy.log_text(),
        what="the audit to find it",
    )
    assert node.output("acme/web", "sh", "-c", "cat $FLOX_ENV/share/page") == WHOLE.decode()
