"""Garbage collection on a node: what is deleted, what stays, and pods that start meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from cri_proxy.cli import exits
from hack.testbed import waiting
from hack.testbed.environments import Package
from tests.e2e.conftest import Node, spec

ROUNDS = 8


@pytest.fixture
def node_settings() -> dict[str, dict[str, Any]]:
    """No grace, and a daemon that does not look by itself."""
    return {"garbage": {"grace_seconds": 0, "interval_seconds": 86400}}


def collect(node: Node, *options: str) -> dict[str, Any]:
    """Run `cri-proxy gc` beside the daemon; return what it says."""
    said: dict[str, Any] = json.loads(node.proxy.run("gc", "--json", *options))
    return said


def gone(said: dict[str, Any]) -> set[str]:
    return {each["reference"] for each in said["environments"] if each["goes"]}


def holders(said: dict[str, Any], reference: str) -> str:
    return " ".join(
        who
        for each in said["environments"]
        if each["reference"] == reference
        for who in each["holders"]
    )


def page(node: Node, name: str) -> Package:
    return node.published.package(name, {"share/page": f"{name}\n".encode()})


def environments(node: Node) -> set[str]:
    return {each.name.split("-", 1)[1] for each in node.proxy.environments.glob("[!.]*")}


def store(node: Node) -> set[str]:
    return {each.name.split("-", 1)[1] for each in (node.proxy.root / "store").glob("[!.]*")}


def test_what_no_container_uses_is_deleted_with_its_store_paths_and_the_rest_stays(
    node: Node,
) -> None:
    node.push("staying", page(node, "kept"))
    node.push("going", page(node, "dropped"))
    staying = node.run("acme/staying", "sleep", "600")
    pod = node.pod("acme/going")
    pod.run(spec("true")).wait()
    pod.remove()

    planned = collect(node, "--dry-run")
    assert environments(node) == {"acme-staying", "acme-going"}
    said = collect(node)

    assert gone(planned) == gone(said) == {"acme/going:1"}
    assert planned["bytes"] == said["bytes"] > 0
    assert "main (running)" in holders(said, "acme/staying:1")
    assert environments(node) == {"acme-staying"}
    assert "kept" in store(node)
    assert "dropped" not in store(node)
    shown = staying.exec_sync(["sh", "-c", "cat $FLOX_ENV/share/page"], timeout_seconds=30)
    assert shown.stdout == b"kept\n"


def test_an_exited_container_keeps_its_environment_and_a_restart_runs_in_it(node: Node) -> None:
    node.push("web", page(node, "one"))
    pod = node.pod("acme/web")
    pod.run(spec("true")).wait()

    said = collect(node)
    asked = node.cache.count()
    again = pod.run(spec("sh", "-c", "cat $FLOX_ENV/share/page", attempt=1))

    assert gone(said) == set()
    assert "(exited)" in holders(said, "acme/web:1")
    assert again.wait() == 0
    assert node.cache.count() == asked


def test_a_pod_without_a_container_yet_keeps_what_it_asks_for(node: Node) -> None:
    node.push("web", page(node, "one"))
    node.proxy.run("realize", "acme/web")
    pod = node.pod("acme/web")

    held = collect(node)
    pod.remove()
    free = collect(node)

    assert gone(held) == set()
    assert holders(held, "acme/web:1").startswith("pod default/pod-")
    assert gone(free) == {"acme/web:1"}


def test_an_older_generation_is_deleted_when_no_pod_uses_it_any_more(node: Node) -> None:
    node.push("web", page(node, "one"))
    first = node.pod("acme/web")
    first.run(spec("true")).wait()
    node.push("web", page(node, "two"))
    node.run("acme/web", "sleep", "600")
    first.remove()

    said = collect(node)

    assert gone(said) == {"acme/web:1"}
    assert {"one", "two"} & store(node) == {"two"}


def test_what_containers_use_is_known_after_a_kill(node: Node) -> None:
    node.push("web", page(node, "one"))
    running = node.run("acme/web", "sleep", "600")
    node.proxy.kill()

    said = collect(node)
    node.proxy.start()

    assert gone(said) == set()
    assert running.exec_sync(["true"], timeout_seconds=30).exit_code == 0


def test_a_collection_that_was_cut_short_is_finished_by_the_next_daemon(node: Node) -> None:
    garbage = node.proxy.environments / ".garbage" / "0123456789abcdef"
    (garbage / "store" / "deep").mkdir(parents=True)
    (garbage / "store" / "deep" / "file").touch()
    (garbage / "store").chmod(0o555)

    node.proxy.restart()

    waiting.until(lambda: not garbage.exists(), what="the rest of it to be deleted")


def test_pods_that_start_while_garbage_is_collected_all_run(node: Node) -> None:
    """The race: every round one pod's environment is free to go until its container is created."""
    node.push("web", page(node, "one"))
    ended = threading.Event()
    failures: list[BaseException] = []

    def collect_on_and_on() -> None:
        try:
            while not ended.is_set():
                collect(node)
        except BaseException as error:
            failures.append(error)
            raise

    collecting = threading.Thread(target=collect_on_and_on)
    collecting.start()
    try:
        outputs = []
        for _ in range(ROUNDS):
            pod = node.pod("acme/web")
            container = pod.run(spec("sh", "-c", "cat $FLOX_ENV/share/page"))
            assert container.wait() == 0, container.logs()
            outputs.append(container.logs().stdout)
            pod.remove()
    finally:
        ended.set()
        collecting.join()

    assert failures == []
    assert outputs == [b"one\n"] * ROUNDS


def test_nothing_is_deleted_while_the_runtime_does_not_answer(node: Node, tmp_path: Path) -> None:
    node.push("web", page(node, "one"))
    node.proxy.run("realize", "acme/web")

    done = subprocess.run(
        node.proxy.argv("gc", "--set", f"runtime.endpoint={tmp_path}/absent.sock"),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=waiting.DEADLINE_SECONDS,
        check=False,
    )

    assert done.returncode == exits.TEMPORARY
    assert "check that it is running" in done.stderr
    assert environments(node) == {"acme-web"}


def test_a_daemon_frees_disk_space_by_itself(node: Node) -> None:
    node.push("web", page(node, "one"))
    node.proxy.run("realize", "acme/web")
    assert environments(node) == {"acme-web"}

    node.proxy.configure({"garbage": {"high_percent": 1, "low_percent": 0, "interval_seconds": 1}})
    node.proxy.restart()

    waiting.until(lambda: environments(node) == set(), what="the environment to go")
    assert "environment removed reference=acme/web:1" in node.proxy.log_text()


def test_a_daemon_removes_what_is_old(node: Node) -> None:
    node.push("web", page(node, "one"))
    node.push("busy", page(node, "two"))
    node.proxy.run("realize", "acme/web")
    node.run("acme/busy", "sleep", "600")

    node.proxy.configure({"garbage": {"age_seconds": 1, "interval_seconds": 1}})
    node.proxy.restart()

    waiting.until(lambda: environments(node) == {"acme-busy"}, what="the old one to go")
