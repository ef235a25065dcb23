"""kubectl commands on pods in environments: exec, logs, port-forward, cp, describe, top."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

from hack.cluster.kubectl import condition, restarts
from hack.testbed import processes, waiting
from hack.testbed.images import PLACEHOLDER
from tests.kubernetes.spaces import START_SECONDS, Space


def test_exec_runs_inside_and_passes_arguments_input_and_exit_code(space: Space) -> None:
    space.push("exec", variables={"GREETING": "hello"})
    space.run("exec", environment="test/exec")

    output = space.kubectl("exec", "exec", "--", "sh", "-c", 'echo "$GREETING $0"', "a  b")
    echoed = space.kubectl("exec", "exec", "-i", "--", "cat", text="through standard input\n")
    code = space.kubectl("exec", "exec", "--", "sh", "-c", "sh -c 'exit 7'; echo $?")

    assert output == "hello a  b\n"
    assert echoed == "through standard input\n"
    assert code == "7\n"


def test_logs_are_followed_to_their_end(space: Space) -> None:
    space.push("logs")
    command = ["sh", "-c", "for i in 1 2 3; do echo $i; done; echo error >&2"]
    space.kubectl.apply(_once("logs", "test/logs", command))
    space.ended("logs")

    lines = space.kubectl("logs", "--follow", "logs").splitlines()

    assert sorted(lines) == ["1", "2", "3", "error"]


def test_a_port_is_forwarded(space: Space, tmp_path: Path) -> None:
    space.push("port")
    serve = "echo page >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"
    space.run("port", environment="test/port", command=["sh", "-c", serve])

    argv = space.kubectl.argv("port-forward", "pod/port", ":8080")
    with processes.Program(argv, log=tmp_path / "log") as forward:
        line = forward.await_output(r"Forwarding from 127\.0\.0\.1:\d+")
        page = waiting.until(
            lambda: _page(f"http://127.0.0.1:{line.rpartition(':')[2]}/"), what="the page"
        )

    assert page == "page\n"


def test_files_are_copied_in_and_out(space: Space, tmp_path: Path) -> None:
    space.push("copy")
    space.run("copy", environment="test/copy")
    (tmp_path / "in").write_text("content\n" * 10000)

    space.kubectl("cp", str(tmp_path / "in"), "copy:/tmp/file")
    space.kubectl("cp", "copy:/tmp/file", str(tmp_path / "out"))

    assert (tmp_path / "out").read_text() == (tmp_path / "in").read_text()


def test_termination_messages_are_read_from_their_file_and_from_the_log(space: Space) -> None:
    space.push("ends")
    from_file = ["sh", "-c", "echo because >/dev/termination-log; exit 4"]
    from_log = ["sh", "-c", "echo this is why; exit 5"]
    fallback = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    space.kubectl.apply(
        _once("file", "test/ends", from_file), _once("log", "test/ends", from_log, **fallback)
    )

    ends = [_terminated(space.ended(name)) for name in ("file", "log")]

    assert [(end["exitCode"], end["message"]) for end in ends] == [
        (4, "because\n"),
        (5, "this is why\n"),
    ]


def test_statistics_of_pods_are_what_metrics_servers_read(space: Space) -> None:
    space.push("stats")
    busy = ["sh", "-c", "while :; do :; done"]
    limits = {"resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}
    space.run("stats", environment="test/stats", command=busy, container=limits)
    node = f"/api/v1/nodes/{space.cluster.kubelet.name}/proxy"

    def used() -> dict[str, Any] | None:
        summary = json.loads(space.kubectl("get", "--raw", f"{node}/stats/summary"))
        for each in summary["pods"]:
            if each["podRef"] == {"name": "stats", "namespace": space.name, **_uid(each)}:
                (container,) = each.get("containers") or [{}]
                cpu = container.get("cpu", {}).get("usageCoreNanoSeconds", 0)
                memory = container.get("memory", {}).get("workingSetBytes", 0)
                return container if cpu > 1e8 and memory > 0 else None
        return None

    container = waiting.until(used, what="statistics of the pod", seconds=START_SECONDS)
    resources = space.kubectl("get", "--raw", f"{node}/metrics/resource")

    assert container["name"] == "main"
    label = rf'container="main",namespace="{space.name}",pod="stats"'
    assert re.search(rf"container_cpu_usage_seconds_total{{{label}}}", resources)
    assert re.search(rf"container_memory_working_set_bytes{{{label}}}", resources)


def test_an_unknown_environment_is_one_clear_event_until_it_exists(space: Space) -> None:
    space.push("other")  # so that their owner is known
    space.kubectl.apply(_once("early", "test/early", ["sh", "-c", "echo started"]))

    space.pod("early", lambda pod: _waiting_reason(pod) == "CreateContainerError")
    waiting.until(
        lambda: sum(each["count"] for each in _warnings(space, "early")) > 1,
        what="a second try of kubelet",
        seconds=START_SECONDS,
    )
    described = space.kubectl("describe", "pod", "early")
    warnings = _warnings(space, "early")
    space.push("early")
    space.ended("early")

    assert len(warnings) == len(_warnings(space, "early")) == 1, warnings
    assert warnings[0]["reason"] == "Failed"
    message = warnings[0]["message"]
    assert "test/early does not exist on FloxHub" in message
    assert "check the environment's name, or push it" in message
    assert message in described
    assert space.kubectl("logs", "early") == "started\n"


def test_an_invalid_annotation_is_reported_in_describe(space: Space) -> None:
    space.kubectl.apply(_once("wrong", "no-slash", ["true"]))

    (warning,) = waiting.until(
        lambda: _warnings(space, "wrong") or None, what="a warning", seconds=START_SECONDS
    )

    assert warning["reason"] == "FailedCreatePodSandBox"
    assert "flox.dev/environment" in warning["message"]


def test_the_node_reports_its_runtime_through_the_proxy(space: Space) -> None:
    node = space.cluster.node()

    version = space.cluster.runtime.version().partition("~")[0]

    assert condition(node, "Ready") == "True"
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == f"containerd://{version}"


def test_a_pod_with_a_real_image_keeps_it_and_gets_the_environment_on_top(space: Space) -> None:
    space.push("layered", variables={"GREETING": "hello"})

    pod = space.run(
        "layered",
        environment="test/layered",
        command=["sh", "-c", "ls -d /srv; exec sleep 2147483647"],
        container={"image": "busybox-dressed:1"},
    )

    assert restarts(pod) == 0
    assert space.kubectl("logs", "layered") == "/srv\n"
    shown = space.kubectl("exec", "layered", "--", "sh", "-c", 'echo "$GREETING $FROM_IMAGE"')
    assert shown == "hello yes\n"


def _once(name: str, environment: str, command: list[str], **container: Any) -> dict[str, Any]:
    """Return a pod that runs a command once."""
    main = {"name": "main", "image": PLACEHOLDER, "command": command, **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"flox.dev/environment": environment}},
        "spec": {"restartPolicy": "Never", "containers": [main]},
    }


def _warnings(space: Space, name: str) -> list[dict[str, Any]]:
    """Return the events of type Warning about a pod."""
    about = f"--field-selector=involvedObject.name={name},type=Warning"
    found: list[dict[str, Any]] = space.kubectl.get("events", about)
    return found


def _waiting_reason(pod: dict[str, Any]) -> str | None:
    statuses = pod["status"].get("containerStatuses") or [{}]
    reason: str | None = statuses[0].get("state", {}).get("waiting", {}).get("reason")
    return reason


def _terminated(pod: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def _uid(statistics: dict[str, Any]) -> dict[str, str]:
    return {"uid": statistics["podRef"]["uid"]}


def _page(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return None
